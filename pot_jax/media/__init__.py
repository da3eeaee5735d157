"""Pictures and movies as bytes; the only code that knows them."""
