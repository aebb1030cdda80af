"""The registry in a browser: pages of HTML, made on the server, that work without scripts."""
