"""Where the parts of a model lie: folder, single file, hub."""
