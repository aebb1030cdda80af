"""Images that the project makes by itself, without compiler or network: what the demo and the tests pull."""
