"""A copy as a layer: the tar of what COPY, ADD or WORKDIR puts over a file system, written without a copy being made.

Only where things go is looked up in the file system below (symlinks on the way to the destination, directories that
are there already and keep their attributes); the layer then hides or merges with what it stands on by itself.
"""

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scow.build.selection import Keep, Selected, everything, kept_below
from scow.build.trees import DirectoryTree, Tree, find, join
from scow.errors import InvalidArgument
from scow.store import tarheader
from scow.store.tree import WHITEOUT, Node, shown, split_device_number

_KINDS: Final = {
    stat.S_IFDIR: tarheader.DIRECTORY,
    stat.S_IFREG: tarheader.FILE,
    stat.S_IFLNK: tarheader.SYMLINK,
    stat.S_IFCHR: tarheader.CHARACTER,
    stat.S_IFBLK: tarheader.BLOCK_DEVICE,
    stat.S_IFIFO: tarheader.FIFO,
}
_BATCH: Final = 1 << 18
_NEW_DIRECTORY: Final = stat.S_IFDIR | 0o755
_SYMBOLIC: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_CLAUSE: Final = re.compile(r"([-+=])([rwxXst]*|[ugo])(?=[-+=]|$)")


class CannotCopy(InvalidArgument):
    """The destination doesn't allow what was asked."""


class Owner(msgspec.Struct, frozen=True):
    """Whom copied files are to belong to."""

    uid: int
    gid: int


Chmod = Callable[[int], int]


def parse_chmod(text: str) -> Chmod:
    """Read --chmod: octal (`755`) or symbolic (`u=rwX,go=rX`). Raises InvalidArgument."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        bits = int(text, 8)
        return lambda mode: stat.S_IFMT(mode) | bits
    clauses: list[tuple[str, list[tuple[str, str]]]] = []
    for part in text.split(","):
        found = _SYMBOLIC.fullmatch(part)
        if found is None:
            raise InvalidArgument(
                f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            )
        clauses.append((found[1] or "a", _CLAUSE.findall(found[2])))

    def change(mode: int) -> int:
        for who, actions in clauses:
            for action, what in actions:
                mode = _change(mode, who, action, what)
        return mode

    return change


def _change(mode: int, who: str, action: str, what: str) -> int:
    shifts = {"u": 6, "g": 3, "o": 0}
    wanted = [shifts[each] for each in ("ugo" if "a" in who else dict.fromkeys(who))]
    bits = mask = 0
    for shift in wanted:
        mask |= 0o7 << shift
        if what in ("u", "g", "o"):
            bits |= (mode >> shifts[what] & 0o7) << shift
            continue
        executable = "x" in what or ("X" in what and (stat.S_ISDIR(mode) or mode & 0o111))
        bits |= (("r" in what) << 2 | ("w" in what) << 1 | bool(executable)) << shift
    if "s" in what:
        bits |= (stat.S_ISUID if 6 in wanted else 0) | (stat.S_ISGID if 3 in wanted else 0)
    if "t" in what:
        bits |= stat.S_ISVTX
    if action == "+":
        return mode | bits
    if action == "-":
        return mode & ~bits
    return mode & ~mask | bits


class Composer:
    """Writes one layer to a descriptor. `lower` is the file system below; None for a copy that doesn't look (--link).

    `epoch` is the latest time that an entry may have and the time of what is made here; None: as the files have it.
    """

    def __init__(self, out: int, lower: Path | None, *, epoch: int | None = None, now: int = 0) -> None:
        self._out = out
        self._lower: Tree | None = None if lower is None else DirectoryTree(lower)
        self._epoch = epoch
        self._now = now if epoch is None else epoch
        self._made: set[bytes] = {b""}
        self._there: set[bytes] = {b""} if lower is not None else set()  # of these, the ones of the file system below
        self._replace = True
        self._links: dict[object, bytes] = {}
        self._pending: list[bytes] = []
        self._size = 0
        self.written = False  # something is in the layer

    # --- where to

    def destination(self, path: str) -> tuple[bytes, Node | None]:
        """Follow symlinks to where a path leads in the file system below, and tell what is there."""
        parts = [part for part in os.fsencode(posixpath.normpath("/" + path)).split(b"/") if part]
        if self._lower is None:
            return b"/".join(parts), None
        here: bytes = b""
        node: Node | None = self._lower.root
        for number, part in enumerate(parts):
            found = find(self._lower, join(here, part)) if node is not None else None
            if found is None:
                dangling = None if node is None else find(self._lower, join(here, part), follow=False)
                if dangling is not None and dangling[1].is_symlink and number == len(parts) - 1:
                    raise CannotCopy(f"cannot copy to {path}: it is a symlink to nothing")
                here, node = join(here, part), None
                continue
            here, node = found
            if not node.is_directory and number < len(parts) - 1:
                raise CannotCopy(f"cannot copy to {path}: /{shown(here)} is not a directory")
        return here, node

    # --- what

    def directory(self, path: str, owner: Owner | None) -> None:
        """Make a directory with its parents, where they are missing: WORKDIR. Raises CannotCopy."""
        place, node = self.destination(path)
        if node is not None:
            if not node.is_directory:
                raise CannotCopy(f"mkdir {path}: not a directory")
            return
        self._ensure(place, owner)

    def copy(
        self,
        tree: Tree,
        selections: Sequence[Selected],
        destination: str,
        *,
        owner: Owner | None,
        chmod: Chmod | None = None,
        keep: Keep = everything,
        several: bool = False,
        replace: bool = False,
    ) -> None:
        """Copy what was selected. `owner` None leaves the files' own; `several` sources need a directory.

        A file in the place of a directory, or a directory in the place of anything else, is a CannotCopy unless
        `replace`.
        """
        self._replace = replace
        into_directory = destination.endswith(("/", "/.")) or destination in ("", ".") or several
        place, there = self.destination(destination)
        if into_directory and there is not None and not there.is_directory:
            raise CannotCopy(f"cannot copy to {destination}: it is not a directory")
        for selected in selections:
            self._copy_one(tree, selected, place, there, into_directory, owner, chmod, keep)

    def _copy_one(
        self,
        tree: Tree,
        selected: Selected,
        place: bytes,
        there: Node | None,
        into_directory: bool,
        owner: Owner | None,
        chmod: Chmod | None,
        keep: Keep,
    ) -> None:
        for name, node in selected.parents:
            self._ensure(place, owner)
            self._put(tree, b"", join(place, name), node, owner, chmod)
        if selected.node.is_directory:
            if there is not None and not there.is_directory:
                raise CannotCopy(f"cannot copy a directory to /{shown(place)}: it is not a directory")
            target = join(place, selected.name) if selected.parents else place
            if not selected.parents:
                self._top(target, there, selected.node, owner, chmod)
            start = len(selected.path) + 1 if selected.path else 0
            for path, node in kept_below(tree, selected.path, selected.node, keep):
                self._put(tree, path, join(target, path[start:]), node, owner, chmod)
            return
        if selected.parents or into_directory or (there is not None and there.is_directory):
            self._ensure(place, owner)
            target = join(place, selected.name)
        else:
            self._ensure(place.rpartition(b"/")[0], owner)
            target = place
        self._put(tree, selected.path, target, selected.node, owner, chmod)

    def _top(self, place: bytes, there: Node | None, node: Node, owner: Owner | None, chmod: Chmod | None) -> None:
        """The directory that a directory's contents go to: one that is there keeps its attributes."""
        if there is not None or place in self._made:
            self._ensure(place, owner)
            return
        self._ensure(place.rpartition(b"/")[0], owner)
        mode = chmod(node.mode) if chmod else node.mode
        uid, gid = (owner.uid, owner.gid) if owner else (node.uid, node.gid)
        # A tar without an entry for its root gives it no time.
        self._entry(place, mode, uid, gid, node.mtime or self._now, xattrs=node.xattrs)
        self._made.add(place)

    def _ensure(self, path: bytes, owner: Owner | None) -> None:
        """Have a directory with its parents: those below keep what they are, new ones are made."""
        if path in self._made:
            return
        self._ensure(path.rpartition(b"/")[0], owner)
        self._made.add(path)
        found = None if self._lower is None else find(self._lower, path, follow=False)
        if found is not None and found[1].is_directory:
            node = found[1]
            self._there.add(path)
            self._entry(path, node.mode, node.uid, node.gid, node.mtime, xattrs=node.xattrs, changes=False)
        else:
            uid, gid = (owner.uid, owner.gid) if owner else (0, 0)
            self._entry(path, _NEW_DIRECTORY, uid, gid, self._now)

    def _put(
        self, tree: Tree, path: bytes, target: bytes, node: Node, owner: Owner | None, chmod: Chmod | None
    ) -> None:
        uid, gid = (owner.uid, owner.gid) if owner else (node.uid, node.gid)
        mode = chmod(node.mode) if chmod and not node.is_symlink else node.mode
        above = target.rpartition(b"/")[0]
        if above not in self._made:
            self._ensure(above, owner)
        if above in self._there:
            self._meet(target, node)
        if node.is_directory:
            self._entry(target, mode, uid, gid, node.mtime, xattrs=node.xattrs)
            self._made.add(target)
            return
        identity = tree.identity(path, node)
        if identity is not None:
            earlier = self._links.setdefault(identity, target)
            if earlier != target:
                self._write(
                    tarheader.encode_header(
                        target,
                        tarheader.LINK,
                        mode=stat.S_IMODE(mode),
                        uid=uid,
                        gid=gid,
                        mtime=self._time(node.mtime),
                        target=earlier,
                    )
                )
                return
        if stat.S_ISREG(mode):
            self._entry(target, mode, uid, gid, node.mtime, size=node.size, xattrs=node.xattrs)
            for piece in tree.content(path, node):
                self._write(piece)
            self._write(tarheader.padding(node.size))
        else:
            self._entry(target, mode, uid, gid, node.mtime, payload=node.payload)

    def _meet(self, target: bytes, node: Node) -> None:
        """Look at what the file system below has where something goes. Raises CannotCopy."""
        assert self._lower is not None
        found = find(self._lower, target, follow=False)
        if found is None:
            return
        if not self._replace and found[1].is_directory is not node.is_directory:
            raise CannotCopy(
                f"cannot copy to non-directory: /{shown(target)}"
                if node.is_directory
                else f"cannot replace to directory /{shown(target)} with file"
            )
        if node.is_directory and found[1].is_directory:
            self._there.add(target)

    def file(self, path: bytes, pieces: Iterable[bytes], size: int, mode: int, owner: Owner, mtime: int) -> None:
        """Write a file from bytes, its parents where missing."""
        self._ensure(path.rpartition(b"/")[0], owner)
        self._entry(path, stat.S_IFREG | mode, owner.uid, owner.gid, mtime, size=size)
        for piece in pieces:
            self._write(piece)
        self._write(tarheader.padding(size))

    def place(self, tree: Tree, path: bytes, node: Node) -> None:
        """Write something as it is, at its own path."""
        self._put(tree, path, path, node, None, None)

    def hide(self, path: bytes) -> None:
        """Write that what the file system below has at a path is gone. layer.md, "Whiteouts"."""
        above, _, name = path.rpartition(b"/")
        self._ensure(above, None)
        self._entry(join(above, WHITEOUT + name), stat.S_IFREG, 0, 0, self._now)

    def finish(self) -> None:
        """Write the end of the tar."""
        self._write(tarheader.END)
        self._flush()

    # --- the tar

    def _time(self, mtime: int) -> int:
        return mtime if self._epoch is None else min(mtime, self._epoch)

    def _entry(
        self,
        path: bytes,
        mode: int,
        uid: int,
        gid: int,
        mtime: int,
        *,
        size: int = 0,
        payload: object = None,
        xattrs: dict[bytes, bytes] | None = None,
        changes: bool = True,
    ) -> None:
        kind = _KINDS[stat.S_IFMT(mode)]
        device = split_device_number(payload) if isinstance(payload, int) and kind in b"34" else None
        self.written = self.written or changes
        self._write(
            tarheader.encode_header(
                path + b"/" if kind == tarheader.DIRECTORY else path,
                kind,
                mode=stat.S_IMODE(mode),
                uid=uid,
                gid=gid,
                size=size,
                mtime=self._time(mtime),
                target=payload if isinstance(payload, bytes) else b"",
                device=device,
                xattrs=xattrs,
            )
        )

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(b"".join(self._pending))
        self._pending.clear()
        self._size = 0
        while view:
            view = view[os.write(self._out, view) :]
