"""The security options that an engine gives its containers where they don't say otherwise.

`no-new-privileges` and `seccomp-profile` of daemon.json. The profile's file is read once, when the engine starts.
"""

from pathlib import Path
from typing import Final

import msgspec

from scow.engine.config import EngineConfig, InvalidConfig
from scow.runtime.seccomp import BUILTIN, UNCONFINED, InvalidProfile, resolve, this_machine

BY_NAME: Final = ("", BUILTIN, UNCONFINED)


class DefaultSecurity(msgspec.Struct, frozen=True):
    """`seccomp` is "" for the distribution's profile, `unconfined`, or a profile's JSON text."""

    no_new_privileges: bool = False
    seccomp: str = ""

    def options(self, *, privileged: bool) -> list[str]:
        """As security options of a container, to stand before its own. Privileged ones have no profile by default."""
        found = ["no-new-privileges"] if self.no_new_privileges else []
        if self.seccomp and not privileged:
            found.append(f"seccomp={self.seccomp}")
        return found


def read(config: EngineConfig) -> DefaultSecurity:
    """Read the profile that the configuration names. Blocks. Raises InvalidConfig for one that can't be used."""
    name = config.seccomp_profile
    if name in BY_NAME:
        return DefaultSecurity(config.no_new_privileges, name.replace(BUILTIN, ""))
    try:
        text = Path(name).read_text(encoding="utf-8")
        resolve(text.encode(), frozenset(), this_machine())
    except (OSError, UnicodeDecodeError, InvalidProfile) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        raise InvalidConfig(f"seccomp-profile: {name}: {reason}") from error
    return DefaultSecurity(config.no_new_privileges, text)
