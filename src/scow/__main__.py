"""`python -m scow` is the client."""

from scow.cli.main import main

if __name__ == "__main__":
    main()
