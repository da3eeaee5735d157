"""Pictures and movies as bytes; no other code handles bytes."""
