"""Links, addresses, firewall and published ports."""
