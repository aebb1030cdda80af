"""Digests, descriptors, manifests, image configs, references and platforms: pure data, no I/O."""
