"""The volume driver `local`: folders below the data root, and what their options have mounted over them.

A volume with options is mounted when the first holder asks for it and unmounted when the last one lets go; holders are
containers, by ID, and short pieces of the engine's own work. moby 28 volume/local/local_linux.go.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from scow.errors import Internal, InvalidArgument, ScowError
from scow.linux import mount

log = logging.getLogger(__name__)

T = TypeVar("T")

NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
NAME_MAX: Final = 255  # of a file's name
MOUNT_TIMEOUT_S: Final = 60.0
FILLING: Final = "_filling"
OPTIONS: Final = "opts.json"
"""Beside the content, what the volume's options are: without them a lost record would make a plain folder of it."""
_OPTIONS: Final = frozenset({"type", "o", "device", "size"})
_REQUIRED: Final = (("device", ("type",)), ("o", ("device", "type")), ("type", ("device",)))
_SET: Final = {
    "ro": mount.MS_RDONLY,
    "nosuid": mount.MS_NOSUID,
    "nodev": mount.MS_NODEV,
    "noexec": mount.MS_NOEXEC,
    "sync": 16,
    "remount": mount.MS_REMOUNT,
    "mand": 64,
    "dirsync": 128,
    "noatime": mount.MS_NOATIME,
    "nodiratime": 2048,
    "bind": mount.MS_BIND,
    "rbind": mount.MS_BIND | mount.MS_REC,
    "relatime": mount.MS_RELATIME,
    "strictatime": 1 << 24,
}
_CLEARED: Final = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "async": "sync",
    "nomand": "mand",
    "atime": "noatime",
    "diratime": "nodiratime",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
}
_PROPAGATION: Final = {
    **{"unbindable": 1 << 17, "private": mount.MS_PRIVATE, "slave": mount.MS_SLAVE, "shared": mount.MS_SHARED},
    **{"runbindable": 1 << 17 | mount.MS_REC, "rprivate": mount.MS_PRIVATE | mount.MS_REC},
    **{"rslave": mount.MS_SLAVE | mount.MS_REC, "rshared": mount.MS_SHARED | mount.MS_REC},
}


class VolumeMountFailed(Internal):
    """What a volume's options ask for can't be mounted."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"error while mounting volume '{path}': {reason}")


def check_name(name: str) -> None:
    """Raise InvalidArgument, in docker's words, for what can't name a local volume."""
    if NAME.fullmatch(name):
        if len(name) > NAME_MAX:
            raise InvalidArgument(f"create {name}: volume name is too long, it may have {NAME_MAX} characters")
        return
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    raise InvalidArgument(
        f'create {name}: "{name}" includes invalid characters for a local volume name, only '
        '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
    )


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for options that the driver doesn't know, or that need others."""
    for option in options:
        if option not in _OPTIONS:
            raise InvalidArgument(f'create {name}: invalid option: "{option}"')
    if options.get("type") == "cifs" and options.get("device"):
        try:
            port = urlsplit(options["device"]).port
        except ValueError as error:
            raise InvalidArgument(f"create {name}: error parsing mount device url: {error}") from error
        if port is not None:
            raise InvalidArgument(f"create {name}: port not allowed in CIFS device URL, include 'port' in 'o='")
    if "size" in options:
        raise InvalidArgument(f"create {name}: quota size requested but no quota support")
    for option, required in _REQUIRED:
        for other in required:
            if option in options and other not in options:
                raise InvalidArgument(f'create {name}: missing required option: "{other}"')


def mount_options(text: str) -> tuple[int, int, str]:
    """Read mount(8)'s options: flags, propagation flags, and what is left for the file system."""
    flags: set[str] = set()
    propagation = 0
    data: list[str] = []
    for word in text.split(","):
        if word in _SET:
            flags.add(word)
        elif word in _CLEARED:
            flags.discard(_CLEARED[word])
        elif word in _PROPAGATION:
            propagation |= _PROPAGATION[word]
        elif word and word != "defaults":
            data.append(word)
    number = 0
    for flag in flags:
        number |= _SET[flag]
    return number, propagation, ",".join(data)


def is_read_only(options: Mapping[str, str]) -> bool:
    """Whether a volume with these options can't be written to."""
    return bool(mount_options(options.get("o", ""))[0] & mount.MS_RDONLY)


class LocalVolumes:
    """Folders of volumes below `root`, and who holds them. Belongs to the event loop's thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._holders: dict[str, set[str]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def path(self, name: str) -> Path:
        """Where the volume's content is, while it is mounted."""
        return self._root / name / "_data"

    def make(self, name: str, options: Mapping[str, str]) -> None:
        """Make the volume's folder. Blocks; idempotent."""
        self._root.mkdir(mode=0o701, parents=True, exist_ok=True)
        self.path(name).parent.mkdir(mode=0o701, exist_ok=True)
        file = self._root / name / OPTIONS
        if options and not file.exists():
            _write(file, msgspec.json.encode(options))
        self.path(name).mkdir(mode=0o755, exist_ok=True)

    def options(self, name: str) -> dict[str, str] | None:
        """The options as the volume's folder has them; None if there is no folder, or they can't be read. Blocks."""
        folder = self._root / name
        try:
            return msgspec.json.decode((folder / OPTIONS).read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {} if self.path(name).is_dir() else None
        except (OSError, msgspec.MsgspecError) as error:
            log.error("volume %s: %s: %s", name, folder / OPTIONS, error)
            return None

    async def discard(self, name: str) -> None:
        """Delete the volume's folder, never what is mounted over it. Idempotent."""
        self._holders.pop(name, None)
        self._locks.pop(name, None)
        await asyncio.to_thread(_delete, self._root / name)

    async def mount(self, name: str, options: Mapping[str, str], holder: str) -> Path:
        """Have the content at the path that is returned, until the holder lets go. Raises VolumeMountFailed."""
        path = self.path(name)
        async with self._lock(name):
            if options and not await asyncio.to_thread(mount.is_mount_point, path):
                await self._mount(path, options)
            self._holders.setdefault(name, set()).add(holder)
        return path

    async def unmount(self, name: str, holder: str) -> bool:
        """Let go; the last holder unmounts what was mounted. Idempotent: returns whether it was held."""
        async with self._lock(name):
            holders = self._holders.get(name, set())
            was_held = holder in holders
            holders.discard(holder)
            if not holders:
                self._holders.pop(name, None)
                await asyncio.to_thread(mount.ensure_unmounted, self.path(name))
        return was_held

    async def fill(self, name: str, copy: Callable[[Path], None]) -> None:
        """Have `copy` put content into a volume without options, if it is empty: all of it or, after a crash, none."""
        path = self.path(name)
        async with self._lock(name):
            await asyncio.to_thread(_fill, path, copy, in_use=bool(self._holders.get(name)))

    async def reconcile(
        self, volumes: Mapping[str, Mapping[str, str] | None], holders: Mapping[str, Collection[str]]
    ) -> None:
        """Make missing folders of `volumes`, names with their options; remove those that nobody knows, half copies, and
        mounts that nobody holds. A volume whose options are None, for nobody knows them, stays as it is."""
        for holder, held in holders.items():
            for name in held:
                self._holders.setdefault(name, set()).add(holder)

        def work() -> None:
            self._root.mkdir(mode=0o701, parents=True, exist_ok=True)
            for folder in self._root.iterdir():
                if folder.name not in volumes:
                    _delete(folder)
            for name, options in volumes.items():
                try:
                    self._settle(name, options)
                except (OSError, ScowError) as error:  # the others are not to suffer
                    log.error("volume %s can't be used: %s", name, error)

        await asyncio.to_thread(work)

    def _settle(self, name: str, options: Mapping[str, str] | None) -> None:
        if not self._holders.get(name):
            while mount.ensure_unmounted(self.path(name)):
                pass
        if (self.path(name).parent / FILLING).exists():
            shutil.rmtree(self.path(name).parent / FILLING, ignore_errors=True)
        if options is not None:
            self.make(name, options)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _mount(self, path: Path, options: Mapping[str, str]) -> None:
        kind, device = options.get("type", ""), options.get("device", "")
        if not device:
            raise VolumeMountFailed(path, "missing device in volume options")
        flags, propagation, data = mount_options(options.get("o", ""))
        data = await _with_address(path, kind, data)
        said = (
            f"mount {device}:{path}" + (f", flags: {flags:#x}" if flags else "") + (f", data: {data}" if data else "")
        )
        said = re.sub(r"password=[^,]*", "password=********", said)

        def work() -> None:
            try:
                mount.mount(device, path, kind, flags, data or None)
                if propagation:
                    mount.mount(None, path, None, propagation)
                if flags & mount.MS_BIND and flags & mount.MS_RDONLY:
                    mount.mount(None, path, None, flags | mount.MS_REMOUNT)
            except mount.MountFailed:
                mount.ensure_unmounted(path)
                raise

        try:
            await in_own_thread(work, lambda: mount.ensure_unmounted(path), MOUNT_TIMEOUT_S)
        except TimeoutError:
            reason = f"failed to mount local volume: {said}: no answer in {MOUNT_TIMEOUT_S:.0f} seconds"
            raise VolumeMountFailed(path, reason) from None
        except mount.MountFailed as error:
            reason = f"failed to mount local volume: {said}: {os.strerror(error.errno).lower()}"
            if error.errno == errno.ENODEV:
                reason += f" (this machine's kernel has no file system {kind})"
            raise VolumeMountFailed(path, reason) from error


async def in_own_thread(work: Callable[[], T], undo: Callable[[], object], timeout_s: float) -> T:
    """Run what may hang for very long (a network file system's mount) without taking one of the pool's threads.

    Raises TimeoutError; `undo` is then called when it does come to an end, as it is after a cancellation.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    guard = threading.Lock()
    abandoned = succeeded = False

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error it is a T

    def run() -> None:
        nonlocal succeeded
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with guard:
            if abandoned:
                if failure is None:
                    undo()
                return
            succeeded = failure is None
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True, name="mount").start()
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(done)
    except (TimeoutError, asyncio.CancelledError):
        with guard:
            abandoned = True
        if succeeded:
            await asyncio.to_thread(undo)
        raise


async def _with_address(path: Path, kind: str, data: str) -> str:
    """The file system's options with `addr=` as a number: the kernel resolves no names."""
    if not kind.startswith("nfs") and kind != "cifs":
        return data
    found = re.search(r"(?:^|,)addr=([^,]*)", data)
    if found is None:
        return data
    try:
        async with asyncio.timeout(MOUNT_TIMEOUT_S):
            answers = await asyncio.get_running_loop().getaddrinfo(found[1], None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise VolumeMountFailed(
            path, f"error resolving passed in network volume address: lookup {found[1]}: no such host"
        ) from error
    return data[: found.start(1)] + str(answers[0][4][0]) + data[found.end(1) :]


def _write(file: Path, data: bytes) -> None:
    """Write a file, to be there as a whole or not at all."""
    new = file.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(fd)
    new.replace(file)


def _delete(folder: Path) -> None:
    """Remove a volume's folder. What is mounted over it is unmounted first; a mount that stays keeps the folder."""
    with contextlib.suppress(OSError, ScowError):
        for entry in reversed(mount.mounts(folder)):
            mount.ensure_unmounted(entry.target)
    if not mount.mounts(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _fill(path: Path, copy: Callable[[Path], None], *, in_use: bool) -> None:
    with os.scandir(path) as entries:
        if any(entries):
            return
    if in_use:  # a container sees this very folder: another one must not take its place
        copy(path)
        return
    new = path.parent / FILLING
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o755)
    try:
        copy(new)
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
