"""The registry server: the OCI distribution specification over an object store and a metadata store."""
