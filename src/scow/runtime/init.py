"""The init that `--init` puts in front of a command: it reaps orphans and passes signals on."""

from pathlib import Path
from typing import Final

from scow.errors import NotSupported

INIT_DESTINATION: Final = "/sbin/docker-init"
# All of them take `-- COMMAND`. Static ones only: the image has no libraries for them.
PROGRAMS: Final = (
    "/usr/bin/docker-init",
    "/usr/bin/tini-static",
    "/usr/bin/catatonit",
    "/usr/libexec/podman/catatonit",
    "/usr/libexec/docker/docker-init",
    "/usr/local/bin/docker-init",
)


class NoInit(NotSupported):
    """No init is installed."""

    def __init__(self) -> None:
        super().__init__("no init program is installed for --init: install catatonit or tini")


def find_init(configured: str = "") -> Path:
    """The init's program. Raises NoInit."""
    for candidate in (configured,) if configured else PROGRAMS:
        if Path(candidate).is_file():
            return Path(candidate)
    raise NoInit
