"""Other registries: pulled through, copied from, and what is known of them."""
