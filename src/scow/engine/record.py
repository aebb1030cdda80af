"""A container's record: what is written to the state database, and read back after any kind of restart."""

import time

import msgspec

from scow.oci.digest import DiffID, Digest
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig
from scow.wire.network import EndpointSettings


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a container stands. Times are nanoseconds since the epoch, 0 for never.

    `status` is docker's word; `starting` is ours, recorded before a start changes the world, and never shown.
    """

    status: str = "created"  # created, starting, running, paused, restarting, exited, dead, removing
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0
    stopped_by_user: bool = False  # `unless-stopped` and `on-failure` must not start it again
    restart_count: int = 0
    backoff_s: float = 0.0  # waited before the last restart by policy, or being waited
    ever_started: bool = False
    held_by_commit: bool = False  # frozen, or about to be, by a commit: not for longer than that takes
    remove_volumes: bool = False  # with status `removing`: its anonymous volumes go too

    @property
    def live(self) -> bool:
        """Whether it has processes."""
        return self.status in ("running", "paused")


class MountRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mount of a container as it was resolved at its creation."""

    type: str  # bind, volume, tmpfs, image
    destination: str
    source: str = ""
    name: str = ""  # of the volume
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    no_copy: bool = False
    anonymous: bool = False
    subpath: str = ""
    options: tuple[str, ...] = ()
    create_source: bool = False
    from_image: bool = False
    from_mounts: bool = False  # asked for by HostConfig.Mounts, not by Binds
    volume_labels: dict[str, str] = {}  # of a volume that has to be made
    volume_options: dict[str, str] = {}
    image: str = ""  # of a mount of the type image: the image's ID
    engines: bool = False  # a bind of files that the engine made: with the container's own IDs on disk
    read_only_alone: bool = False  # a bind that is read-only without what is mounted below it


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything durable about one container."""

    id: str  # 64 hexadecimal digits
    name: str  # without slash
    created_at: int  # nanoseconds since the epoch
    config: ContainerConfig
    host_config: HostConfig
    image: Digest | None = None  # None for a container without image
    manifest: Digest | None = None
    image_name: str = ""  # as the user named it
    args: tuple[str, ...] = ()  # entrypoint and command, as they will be executed
    diff_ids: tuple[DiffID, ...] = ()
    mounts: tuple[MountRecord, ...] = ()
    endpoints: dict[str, EndpointSettings] = {}  # as asked for, by network name
    links: dict[str, str] = {}  # of the default bridge: alias -> the linked container's ID
    platform: str = "linux"
    runtime: str = ""
    state: State = State()

    def with_state(self, **changes: object) -> "ContainerRecord":
        """The record with some fields of its state changed."""
        return msgspec.structs.replace(self, state=msgspec.structs.replace(self.state, **changes))


def lost_record(id: str, name: str) -> ContainerRecord:
    """Stand in for a record that can't be read: as if it ran, so that recovery looks for its processes."""
    return ContainerRecord(
        id=id,
        name=name,
        created_at=0,
        config=ContainerConfig(),
        host_config=HostConfig(),
        state=State(status="running"),
    )


def now_ns() -> int:
    """This moment, in nanoseconds since the epoch."""
    return time.time_ns()
