"""OCI distribution server."""
