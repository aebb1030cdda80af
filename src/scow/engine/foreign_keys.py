"""Keys of dockerd's daemon.json that Scow reads and that change nothing here, or that it can't honour.

A file that was written for dockerd should start an engine: what only tunes parts that Scow doesn't have is passed over
with a word in the log. What guards a machine is never passed over: if it can't be kept, the engine doesn't start.
"""

from collections.abc import Mapping
from typing import Any, Final

from scow.errors import InvalidArgument

NO_CONTAINERD: Final = "there is no containerd under this engine"
NO_SWARM: Final = "this engine is no member of a swarm"

WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "allow-nondistributable-artifacts": "foreign layers are pushed as references",
    "bridge-accept-fwmark": "packets are not marked",
    "cluster-advertise": NO_SWARM,
    "cluster-store": NO_SWARM,
    "cluster-store-opts": NO_SWARM,
    "containerd": NO_CONTAINERD,
    "containerd-namespace": NO_CONTAINERD,
    "containerd-plugin-namespace": NO_CONTAINERD,
    "cpu-rt-period": "containers get no real-time budget",
    "cpu-rt-runtime": "containers get no real-time budget",
    "cri-containerd": NO_CONTAINERD,
    "deprecated-key-path": "the engine has no key of its own",
    "features": "builds and stores are as they are",
    "firewall-backend": "the firewall is always nftables",
    "ip6tables": "the firewall is one table for IPv4 and IPv6",
    "ip-forward-no-drop": "the machine's own forwarding policy is left alone",
    "network-control-plane-mtu": NO_SWARM,
    "node-generic-resources": NO_SWARM,
    "raw-logs": "the engine's log has no colours",
    "storage-opts": "layers are mounted as they are",
    "swarm-default-advertise-addr": NO_SWARM,
    "userland-proxy-path": "the engine itself carries what the kernel can't",
}
"""Keys by the reason why they change nothing."""

REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "allow-direct-routing": ((False,), "containers are reached by their published ports only"),
    "api-cors-header": (("",), "browsers of other sites must not speak to an engine: who uses the API is root here"),
    "authorization-plugins": (([],), "requests are not shown to authorization plugins; use --tlsverify"),
    "default-gateway": (("",), "the gateway of the default bridge is the bridge itself; see bip"),
    "default-gateway-v6": (("",), "the gateway of the default bridge is the bridge itself"),
    "ip-forward": ((True,), "networks need forwarding"),
    "iptables": ((True,), "networks need the engine's own nftables table, which touches no other's rules"),
    "rootless": ((False,), "the engine needs root"),
}
"""Keys by the values that say what is done anyway, and what to tell whoever wants something else."""


class NotHonoured(InvalidArgument):
    """A key that would change what the engine allows, and can't be kept."""

    def __init__(self, key: str, value: object, why: str) -> None:
        super().__init__(f"{key}: {value!r} can't be honoured: {why}")
        self.key = key


def check(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Split a daemon.json: what is the engine's own, and a sentence for each other key. Raises NotHonoured."""
    own: dict[str, Any] = {}
    told: list[str] = []
    for key, value in document.items():
        if key in REFUSED:
            same, why = REFUSED[key]
            if value not in same:
                raise NotHonoured(key, value, why)
        elif key in WITHOUT_EFFECT:
            told.append(f"{key} has no effect: {WITHOUT_EFFECT[key]}")
        else:
            own[key] = value
    options = own.pop("exec-opts", None) or []
    if not isinstance(options, list):
        raise NotHonoured("exec-opts", options, "it is a list of NAME=VALUE")
    drivers = [each for each in options if each != "native.cgroupdriver=cgroupfs"]
    told += [f"exec-opts: {each} has no effect: control groups are made by the runtime itself" for each in drivers]
    return own, told
