"""Names on user-defined networks: a small DNS server for each, which forwards what it doesn't know."""
