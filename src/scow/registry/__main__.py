"""`python -m scow.registry COMMAND`, which `scow registry COMMAND` runs: `command`, with what its imports would do
needlessly left out. Certificate authorities are read when a connection needs them, and the garbage collector, which
looks in vain at what modules are made of, begins when they are there.
"""

import gc
import sys

from scow.transfer.authorities import authorities_later


def main() -> int:
    """Run one command; its exit code."""
    gc.disable()
    with authorities_later():
        from scow.registry import command
    gc.freeze()
    gc.enable()
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
