"""Messages of the Engine API: pure data."""
