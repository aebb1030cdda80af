"""What ADD and COPY take from elsewhere: URLs, git repositories, archives to be unpacked, texts of the Dockerfile."""

import asyncio
import contextlib
import hashlib
import io
import os
import re
import secrets
import stat
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from scow.build.context import take_tar
from scow.build.git import GitAccess, GitSource, check_checksum, check_out, is_git, parse_git
from scow.build.provenance import Material
from scow.build.threads import made
from scow.build.trees import ContextRefused, DirectoryTree, SpooledTree, Tree
from scow.errors import InvalidArgument, Unavailable
from scow.store import tarheader
from scow.store.tree import Node

_MAGICS: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_TIMEOUT_S: Final = 60.0
_PIECE: Final = 1 << 20


def is_remote(source: str) -> bool:
    """Whether a source is a URL or a git repository."""
    return source.startswith(("http://", "https://")) or is_git(source)


class Remote:
    """Something at a URL."""

    def __init__(
        self,
        url: str,
        access: GitAccess,
        *,
        checksum: str = "",
        keep_git_dir: bool | None = None,
        epoch: int | None = None,
    ) -> None:
        """Raises InvalidArgument for a URL or checksum that makes no sense."""
        self.url = url
        self._access = access
        self._checksum = checksum
        self._epoch = epoch
        self._git: GitSource | None = None
        self.material: Material | None = None  # what it turned out to be, when it was fetched
        if checksum and not is_git(url) and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
            raise InvalidArgument(f"invalid checksum {checksum!r}: it must be sha256: and 64 hexadecimal digits")
        if is_git(url):
            source = parse_git(url)
            if checksum:
                check_checksum(checksum)
                if source.checksum and not source.checksum.startswith(checksum):
                    raise InvalidArgument(f"conflicting checksums: {checksum} and {source.checksum} of the URL")
            self._git = msgspec.structs.replace(
                source,
                checksum=source.checksum or checksum,
                keep_git_dir=source.keep_git_dir if keep_git_dir is None else keep_git_dir,
            )

    @property
    def is_git(self) -> bool:
        """Whether it is a repository."""
        return self._git is not None

    @property
    def folder(self) -> str:
        """The folder of the repository that is meant."""
        return self._git.folder if self._git else ""

    async def fetch(self, folder: Path) -> DirectoryTree:
        """Bring it into a folder of its own below `folder`. Raises Unavailable, InvalidArgument."""
        target = folder / secrets.token_hex(8)
        await asyncio.to_thread(target.mkdir, 0o700, True)
        if self._git is not None:
            commit = await check_out(self._git, target, self._access)
            kind = "sha1" if len(commit) == 40 else "sha256"
            self.material = Material(uri=shown_url(self.url), algorithm=kind, digest=commit)
        else:
            await asyncio.to_thread(self._download, target)
        return await asyncio.to_thread(DirectoryTree, target)

    def _download(self, target: Path) -> None:
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path).rstrip("/").rpartition("/")[2]
        if not name:
            raise InvalidArgument(f"cannot determine filename for source {self.url}")
        state = hashlib.sha256()
        with open_url(self.url, self._access.secrets) as answer:
            with (target / name).open("xb") as file:
                while data := answer.read(_PIECE):
                    state.update(data)
                    file.write(data)
            at = modified(answer)
        (target / name).chmod(0o600)
        seconds = (self._epoch or 0) if at is None else at
        os.utime(target / name, (seconds, seconds))
        self.material = Material(uri=shown_url(self.url), algorithm="sha256", digest=state.hexdigest())
        found = f"sha256:{state.hexdigest()}"
        if self._checksum and self._checksum != found:
            raise InvalidArgument(f"digest mismatch {found}: {self._checksum}")


def shown_url(url: str) -> str:
    """A URL without the password, or token, that may be in it."""
    return re.sub(r"^([a-z+]+://)[^/]*@", r"\1", url)


def modified(answer: "urllib.request._UrlopenRet") -> int | None:
    """When what is at a URL was modified last, in seconds; None if the server doesn't say."""
    with contextlib.suppress(ValueError, TypeError):
        return int(parsedate_to_datetime(answer.headers.get("Last-Modified")).timestamp())
    return None


def open_url(url: str, secrets: Mapping[str, bytes] = {}) -> "urllib.request._UrlopenRet":
    """Begin to read a URL; redirects may only lead to HTTP. Raises Unavailable. Blocks.

    A secret `HTTP_AUTH_HEADER_host` or `HTTP_AUTH_TOKEN_host` goes to that host, and to nobody it redirects to.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidArgument(f"unsupported URL {url!r}: only http and https")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "scow"})
        if header := _authorization(parts, secrets):
            request.add_unredirected_header("Authorization", header)
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error  # what urllib wraps
        text = getattr(why, "strerror", None) or str(why)
        raise Unavailable(f"failed to load {shown_url(url)}: {text.lower()}") from error


def _authorization(parts: urllib.parse.SplitResult, secrets: Mapping[str, bytes]) -> str:
    for host in (parts.netloc.rpartition("@")[2], parts.hostname):
        if header := secrets.get(f"HTTP_AUTH_HEADER_{host}"):
            return header.decode("latin-1").strip()
        if token := secrets.get(f"HTTP_AUTH_TOKEN_{host}"):
            return f"Bearer {token.decode('latin-1').strip()}"
    return ""


def inline_tree(files: dict[str, str], folder: Path) -> SpooledTree:
    """Texts as files: mode 0644. Blocks."""
    parts = []
    for name, text in files.items():
        data = text.encode()
        header = tarheader.encode_header(name.encode(), tarheader.FILE, mode=0o644, size=len(data))
        parts += [header, data, tarheader.padding(len(data))]
    return take_tar(io.BytesIO(b"".join([*parts, tarheader.END])), folder / secrets.token_hex(8))


async def texts_tree(files: dict[str, str], folder: Path) -> SpooledTree:
    """As inline_tree, in a thread."""
    return await made(lambda: inline_tree(files, folder), SpooledTree.close)


async def archive_tree(
    tree: Tree, folder: Path, path: bytes | None = None, node: Node | None = None
) -> SpooledTree | None:
    """What is in a tar, compressed or not, at a path of a tree (its only file if None); None if it is no tar."""
    if path is None or node is None:
        files = tree.children(b"", tree.root)
        if len(files) != 1:
            return None
        path, node = files[0]
    if not stat.S_ISREG(node.mode):
        return None
    return await made(lambda: _archive_tree(tree, folder, path, node), _close)


def _close(tree: SpooledTree | None) -> None:
    if tree is not None:
        tree.close()


def _archive_tree(tree: Tree, folder: Path, path: bytes, node: Node) -> SpooledTree | None:
    head = b""
    for piece in tree.content(path, node):
        head += piece
        if len(head) >= 512:
            break
    if not head.startswith(_MAGICS) and head[257:262] != b"ustar":
        return None
    target = folder / secrets.token_hex(8)
    try:
        return take_tar(cast(BinaryIO, _Content(tree, path, node)), target)
    except ContextRefused:
        if head[257:262] == b"ustar":
            raise
        return None  # compressed, and no tar: copied as it is


class _Content(io.RawIOBase):
    """A tree's file, to be read from its beginning."""

    def __init__(self, tree: Tree, path: bytes, node: Node) -> None:
        self._pieces = tree.content(path, node)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        view = memoryview(cast(bytearray, buffer))
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
