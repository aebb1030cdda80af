"""What the daemon does: containers, images, exec, events, recovery."""
