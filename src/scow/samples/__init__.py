"""Images that the project makes by itself, without a compiler or a network: what the demo and the tests pull and run."""
