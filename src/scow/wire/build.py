"""What a build is asked for: the query of POST /build, and the records of the build cache."""

from typing import Any, ClassVar

import msgspec

from scow.wire.host_config import HostConfig, Ulimit
from scow.wire.message import Message, SparseMessage


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /build's parameters. Sizes in bytes, CPU periods and quotas in microseconds."""

    tags: tuple[str, ...] = ()
    dockerfile: str = ""
    remote: str = ""
    quiet: bool = False
    no_cache: bool = False
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()  # Scow's own parameter, as are those below
    contexts: dict[str, str] | None = None  # named contexts
    pull: bool = False
    remove: bool = True
    force_remove: bool = False
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cpu_period: int = 0
    cpu_quota: int = 0
    build_args: dict[str, str | None] | None = None
    shm_size: int = 0
    squash: bool = False
    labels: dict[str, str] | None = None
    network_mode: str = ""
    extra_hosts: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    security_opt: tuple[str, ...] = ()
    platform: str = ""
    target: str = ""
    build_id: str = ""
    session: str = ""  # what SessionReply named
    no_cache_filter: tuple[str, ...] = ()  # stages
    allow: tuple[str, ...] = ()  # entitlements: Scow's own parameter
    check: bool = False  # only check the Dockerfile
    call: str = ""  # or tell its `targets`, or the `outline` of one
    outputs: tuple[dict[str, Any], ...] = ()  # objects with Type and Attrs
    attestations: tuple[str, ...] = ()  # `type=provenance,mode=max`: Scow's own parameter, like the next two
    annotations: tuple[str, ...] = ()  # `index:key=value`
    trace: bool = False  # tell steps by BuildKit's statuses instead of docker's lines
    metadata: bool = False  # tell what the image's names stand for, and its provenance

    def host_config(self) -> HostConfig:
        """What the containers of RUN steps get of the host."""
        return HostConfig(
            memory=self.memory,
            memory_swap=self.memory_swap,
            cpu_shares=self.cpu_shares,
            cpuset_cpus=self.cpuset_cpus,
            cpuset_mems=self.cpuset_mems,
            cpu_period=self.cpu_period,
            cpu_quota=self.cpu_quota,
            shm_size=self.shm_size,
            network_mode=self.network_mode,
            extra_hosts=list(self.extra_hosts) or None,
            ulimits=list(self.ulimits) or None,
            cgroup_parent=self.cgroup_parent,
            security_opt=list(self.security_opt) or None,
        )


class SessionRequest(Message, frozen=True, kw_only=True):
    """POST /scow/build/sessions: what a build may use and nobody may see. Secrets travel in base64."""

    secrets: dict[str, bytes] = msgspec.field(default_factory=dict)
    agents: dict[str, str] = msgspec.field(default_factory=dict)  # sockets of SSH agents on the engine's machine, by ID
    known_hosts: str = ""  # SSH host keys that git may trust, as lines of known_hosts; empty: any


class SessionReply(Message, frozen=True, kw_only=True):
    """The name under which a build finds what was handed over."""

    id: str = msgspec.field(name="ID")


class CacheRecord(Message, frozen=True, kw_only=True):
    """One record of the build cache. Engine API, BuildCache."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"parents"})

    id: str = msgspec.field(name="ID")
    parents: list[str] | None = None
    type: str = "regular"
    description: str = ""
    in_use: bool = False
    shared: bool = False
    size: int = 0
    created_at: str = ""
    last_used_at: str | None = None
    usage_count: int = 0


class CacheRoom(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a build cache may stay, in bytes; 0 says nothing. Engine API, BuildPrune."""

    reserved: int = 0  # at least so much
    most: int = 0
    free: int = 0  # so much of the disk is to be free


class PruneBuildReply(SparseMessage, frozen=True, kw_only=True):
    """What POST /build/prune removed."""

    caches_deleted: list[str] | None = None
    space_reclaimed: int = 0
