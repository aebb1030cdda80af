"""The user namespace of an engine's containers: `userns-remap` of daemon.json, dockerd's key.

Root of a container is then a user without rights on the machine. On disk files keep the container's own IDs: mounts
shift them (mount_setattr(2), MOUNT_ATTR_IDMAP), so images, containers and volumes are the same with or without it, and
a container may opt out (`--userns=host`). docs/decisions/0019.
"""

import asyncio
import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from scow.engine.config import InvalidConfig
from scow.errors import InvalidArgument
from scow.linux.userns import Extent, IdMap, UserNamespace, outside
from scow.runtime.user import ProcessUser
from scow.store.overlay import Shift
from scow.wire.host_config import HostConfig

SUBORDINATE_USERS: Final = Path("/etc/subuid")
SUBORDINATE_GROUPS: Final = Path("/etc/subgid")
DEFAULT: Final = "default"
DEFAULT_USER: Final = "dockremap"
FIRST: Final = 100_000
COUNT: Final = 65_536


class UserNamespaces:
    """The namespace that containers share, and what IDs are in it."""

    def __init__(self, namespace: UserNamespace) -> None:
        self._namespace = namespace
        self.ids = namespace.ids
        self.shift = Shift(namespace.path, *self.ids.root)

    @classmethod
    async def open(cls, remap: str, data_root: Path, exec_root: Path) -> Self:
        """Make the namespace, or find the one that an earlier engine process made. Raises InvalidConfig."""

        def work() -> UserNamespace:
            for root in (data_root, exec_root):
                check_reachable(root)
            ids = find_ids(remap, SUBORDINATE_USERS, SUBORDINATE_GROUPS)
            try:
                return UserNamespace.open(pin_of(exec_root), ids)
            except OSError as error:
                raise InvalidConfig(f"userns-remap: {remap}: {error.strerror}") from error

        return cls(await asyncio.to_thread(work))

    def shift_of(self, host: HostConfig) -> Shift | None:
        """How a container's files are shifted; None for one that stays in the machine's namespace."""
        return None if host.userns_mode == "host" else self.shift

    def outside(self, host: HostConfig, user: ProcessUser) -> tuple[int, int] | None:
        """User and group of the machine that a process of a container is; None if the container isn't shifted."""
        if self.shift_of(host) is None:
            return None
        try:
            return outside(self.ids.users, user.uid), outside(self.ids.groups, user.gid)
        except ValueError:
            return self.ids.root  # the runtime will say what is wrong with it

    def new_network(self) -> int:
        """As UserNamespace.new_network. Blocks."""
        return self._namespace.new_network()

    async def aclose(self, *, remove: bool) -> None:
        """Leave the namespace to the containers in it, or remove it if there are none."""
        await asyncio.to_thread(self._namespace.remove if remove else self._namespace.close)


def check_user_namespace(host: HostConfig) -> None:
    """Raise InvalidArgument, in docker's words, for what a container in a user namespace can't have."""
    if host.userns_mode == "host":
        return
    if host.privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidArgument("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        raise InvalidArgument("cannot share the host PID namespace when user namespaces are enabled")


def give_streams(pid: int, owner: tuple[int, int]) -> None:
    """Let a user own the pipes that a process has for standard streams, to open them by /dev/stdout. Blocks."""
    for number in (0, 1, 2):
        path = f"/proc/{pid}/fd/{number}"
        with contextlib.suppress(FileNotFoundError):  # it has ended
            if stat.S_ISFIFO(os.stat(path).st_mode):
                os.chown(path, *owner)


def pin_of(exec_root: Path) -> Path:
    """Where an engine pins its user namespace."""
    return exec_root / "userns"


def check_reachable(root: Path) -> None:
    """Raise InvalidConfig, in docker's words, if containers' root could not reach what is below a folder. Blocks."""
    for folder in (root, *root.parents):
        with contextlib.suppress(FileNotFoundError):  # it will be made
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise InvalidConfig(
                    f"a subdirectory in your graphroot path ({root}) restricts access to the remapped root uid/gid; "
                    f"please fix by allowing 'o+x' permissions on existing directories: chmod o+x {folder}"
                )


def find_ids(remap: str, users: Path, groups: Path) -> IdMap:
    """The mapping that `userns-remap` asks for: USER[:GROUP], by name or number, or `default`. Blocks.

    `default` is the user dockremap, as for dockerd; without entries for it, IDs that nobody has entries for. Raises
    InvalidConfig.
    """
    user_entries, group_entries = _entries(users), _entries(groups)
    if remap == DEFAULT and not any(entry[0] == DEFAULT_USER for entry in user_entries):
        first = max([FIRST, *(start + count for _, start, count in [*user_entries, *group_entries])])
        extents = (Extent(0, first, COUNT),)
        return IdMap(extents, extents)
    user, _, group = (DEFAULT_USER if remap == DEFAULT else remap).partition(":")
    return IdMap(
        _extents(user_entries, _user_names(user), user, users),
        _extents(group_entries, _group_names(group or user), group or user, groups),
    )


def _entries(path: Path) -> list[tuple[str, int, int]]:
    """The lines of subuid(5): name or number, first ID, count. Lines that make no sense are passed over."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidConfig(f"userns-remap: {path}: {error.strerror}") from error
    for line in lines:
        name, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if name and start.isdigit() and count.isdigit() and int(count):
            found.append((name, int(start), int(count)))
    return found


def _extents(entries: Iterable[tuple[str, int, int]], names: set[str], asked: str, path: Path) -> tuple[Extent, ...]:
    extents: list[Extent] = []
    inside = 0
    for name, start, count in entries:
        if name in names:
            extents.append(Extent(inside, start, count))
            inside += count
    if not extents:
        raise InvalidConfig(
            f"userns-remap: {path} has no entry for {asked!r}: add one, for instance {asked}:100000:65536"
        )
    return tuple(extents)


def _user_names(user: str) -> set[str]:
    """A user by name and number, for either may stand in the file. Raises InvalidConfig for a user that isn't there."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        if user.isdigit() or user == DEFAULT_USER:
            return {user}
        raise InvalidConfig(f"userns-remap: there is no user {user!r}") from None
    return {entry.pw_name, str(entry.pw_uid)}


def _group_names(group: str) -> set[str]:
    try:
        entry = grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)
    except KeyError:
        return {group}
    return {entry.gr_name, str(entry.gr_gid)}
