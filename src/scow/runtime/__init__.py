"""Bundles, conmon and the OCI runtime."""
