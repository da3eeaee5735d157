"""What is added to a model as it is loaded: LoRAs and textual inversions."""
