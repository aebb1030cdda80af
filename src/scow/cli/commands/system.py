"""`scow system dial-stdio`."""

from __future__ import annotations

import os

from scow.cli.command import Command
from scow.cli.flags import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.session import Session


def dial_stdio(session: Session, options: Options) -> None:
    """Relay stdin and stdout to the engine: the far end of `-H ssh://HOST`."""
    import select

    from scow.cli.pump import write_all

    stream = session.host.dial()
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(stream.fileno(), select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                data = os.read(0, 1 << 16)
                if data:
                    stream.sendall(data)
                else:
                    poller.unregister(0)
                    stream.shutdown_write()
            else:
                data = stream.recv(1 << 16)
                if not data:
                    return
                write_all(1, data)


COMMANDS = {"dial-stdio": Command(dial_stdio)}
