"""AppArmor, where the kernel has it: which profile confines a container's processes.

As dockerd chooses: what was asked for, none for privileged containers, else `docker-default`. Scow brings no profile
and loads none; without one of that name (dockerd loads it) who asks for nothing isn't confined by AppArmor.
"""

from functools import cache
from pathlib import Path
from typing import Final

DEFAULT: Final = "docker-default"
UNCONFINED: Final = "unconfined"
ENABLED: Final = Path("/sys/module/apparmor/parameters/enabled")
LOADED: Final = Path("/sys/kernel/security/apparmor/profiles")


def profile_for(asked: str, *, privileged: bool, enabled: Path = ENABLED, loaded: Path = LOADED) -> str:
    """The value of process.apparmorProfile; "" leaves it out. The runtime fails if it isn't loaded."""
    if not _is_enabled(enabled):
        return ""
    if asked:
        return asked
    if privileged:
        return UNCONFINED
    return DEFAULT if _is_loaded(loaded, DEFAULT) else ""


@cache
def _is_enabled(path: Path) -> bool:
    try:
        return path.read_text().strip() == "Y"
    except OSError:
        return False


def _is_loaded(path: Path, name: str) -> bool:
    """Whether the kernel knows the profile: profiles come and go while an engine runs."""
    try:
        return any(line.rpartition(" (")[0] == name for line in path.read_text().splitlines())
    except OSError:
        return False
