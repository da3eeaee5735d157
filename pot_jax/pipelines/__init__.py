"""Settings and a model in, a result out: zoom, upscale, inpaint."""
