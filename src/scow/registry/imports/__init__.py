"""Content that is somewhere else already moves in: folders of other registries, layouts."""
