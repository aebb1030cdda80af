"""What a Dockerfile may do only if both the engine's configuration and whoever asks for the build allow it.

Dockerfile reference, "RUN --network" and "RUN --security": `network.host` and `security.insecure`. A Dockerfile is
often somebody else's; who builds it has not agreed to give it the machine.
"""

from collections.abc import Iterable
from typing import Final

from scow.build import instructions as kinds
from scow.errors import Forbidden, InvalidArgument

NETWORK_HOST: Final = "network.host"
SECURITY_INSECURE: Final = "security.insecure"


class NotEntitled(Forbidden):
    """A step asks for what the build was not allowed."""

    def __init__(self, step: str, entitlement: str) -> None:
        super().__init__(f"{step} is not allowed: build with --allow {entitlement}, if you trust this Dockerfile")
        self.entitlement = entitlement


def granted(asked: Iterable[str], offered: Iterable[str]) -> frozenset[str]:
    """What a build may do. `offered` is what the engine's configuration has.

    Raises InvalidArgument for a name that means nothing, Forbidden for one that the configuration keeps back.
    """
    wanted = frozenset(asked)
    for name in sorted(wanted):
        if name not in (NETWORK_HOST, SECURITY_INSECURE):
            raise InvalidArgument(f"unknown entitlement {name!r}: there are {NETWORK_HOST} and {SECURITY_INSECURE}")
    for name in sorted(wanted.difference(offered)):
        raise Forbidden(
            f"granting entitlement {name} is not allowed by the engine's configuration: set "
            f"builder.entitlements.{name.replace('.', '-')} in daemon.json"
        )
    return wanted


def check(step: kinds.Run, allowed: frozenset[str]) -> None:
    """Refuse a step what it was not allowed. Raises NotEntitled."""
    if step.network == "host" and NETWORK_HOST not in allowed:
        raise NotEntitled("RUN --network=host", NETWORK_HOST)
    if step.devices:
        raise Forbidden(f"RUN --device={step.devices[0]} is not allowed: this engine gives no devices to builds")
    if step.security == "insecure" and SECURITY_INSECURE not in allowed:
        raise NotEntitled("RUN --security=insecure", SECURITY_INSECURE)
