"""Registry client: pull and push."""
