"""Images over the network: the client of registries, pull and push."""
