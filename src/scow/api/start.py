"""`scowd` as it is started: what its imports would do needlessly is left out. A sixth of a second, with 700 modules.

Certificate authorities are read when the first connection needs them: all of the engine's have TLS settings of their
own but those to a proxy by TLS. And the garbage collector looks in vain at what modules are made of: it begins when
they are there, and never looks at them.
"""

import gc
import sys

from scow.transfer.authorities import authorities_later


def main() -> int:
    """Run the daemon; as `daemon.main`, which lets the garbage collector begin."""
    gc.disable()
    with authorities_later():
        from scow.api import daemon
    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
