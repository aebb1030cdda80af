"""Content, layers, snapshots and the names of images."""
