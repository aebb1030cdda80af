"""Packages that are installed in a file system: what dpkg, apk, rpm, Python's installers and npm have recorded there.

Read from mounted layers: nothing of the image is executed, symlinks lead nowhere outside, sizes have limits, and a
record that makes no sense is passed over. It takes a while and parses what strangers wrote, hence a process of its own:

    python -m scow.build.packages DIRECTORY

which writes the packages as JSON.
"""

import asyncio
import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from scow.build.rpm_database import DATABASES, read_packages
from scow.build.trees import ContextRefused, DirectoryTree, find
from scow.errors import Internal

LIMIT: Final = 64 << 20  # bytes of one record; Debian's status file has some hundred kB
MAX_PACKAGES: Final = 100_000
PURL_LIMIT: Final = 2000  # characters
_SKIPPED: Final = frozenset({b"proc", b"sys", b"dev"})
_DPKG: Final = b"var/lib/dpkg/status"
_DPKG_FOLDER: Final = b"var/lib/dpkg/status.d"  # of distroless images
_APK: Final = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_RELEASES: Final = (b"etc/os-release", b"usr/lib/os-release")
_LICENSE: Final = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")


class Package(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An installed package; `purl` names it for all kinds alike. https://github.com/package-url/purl-spec."""

    kind: str  # deb, apk, rpm, pypi, npm
    name: str
    version: str
    purl: str
    place: str  # the file that told of it, from the root
    license: str = ""  # an SPDX expression, if the record has one
    supplier: str = ""


def find_packages(top: Path) -> list[Package]:
    """All packages of the file system in a directory that nobody changes, sorted, each once."""
    return _Finder(top).run()


async def scan(top: Path) -> list[Package]:
    """`find_packages` in a process of its own, which ends with us. Raises Internal."""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"}
    # -S: all that it imports is on PYTHONPATH already.
    command = (sys.executable, "-S", "-m", "scow.build.packages", str(top))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, cwd="/"
    )
    try:
        out, said = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Internal(f"the search for packages failed: {lines[-1] if lines else process.returncode}")
    return await asyncio.to_thread(msgspec.json.decode, out, type=list[Package])


class _Finder:
    def __init__(self, top: Path) -> None:
        self._top = top
        self._tree = DirectoryTree(top)
        self._release: dict[str, str] = {}

    def run(self) -> list[Package]:
        self._release = _release(next(filter(None, map(self._read, _RELEASES)), b""))
        found = {each.purl: each for each in self._all() if len(each.purl) < PURL_LIMIT}
        return sorted(found.values())[:MAX_PACKAGES]

    def _all(self) -> Iterator[Package]:
        yield from self._dpkg()
        for path in _APK:
            for fields in _paragraphs(self._read(path)):
                yield from self._apk(fields, path)
        yield from self._rpm()
        yield from self._by_folders()

    # distributions

    def _dpkg(self) -> Iterator[Package]:
        for fields in _paragraphs(self._read(_DPKG)):
            if fields.get("Status", "install ok installed").endswith(" installed"):
                yield from self._deb(fields, _DPKG)
        for name in self._names(_DPKG_FOLDER):
            if not name.endswith(b".md5sums"):
                for fields in _paragraphs(self._read(_DPKG_FOLDER + b"/" + name)):
                    yield from self._deb(fields, _DPKG_FOLDER + b"/" + name)

    def _deb(self, fields: dict[str, str], place: bytes) -> Iterator[Package]:
        name, version = fields.get("Package", ""), fields.get("Version", "")
        if name and version:
            supplier, arch = fields.get("Maintainer", ""), fields.get("Architecture", "")
            yield self._package("deb", "debian", name, version, place, supplier=supplier, arch=arch)

    def _apk(self, fields: dict[str, str], place: bytes) -> Iterator[Package]:
        name, version = fields.get("P", ""), fields.get("V", "")
        if name and version:
            license, supplier, arch = fields.get("L", ""), fields.get("m", ""), fields.get("A", "")
            yield self._package("apk", "alpine", name, version, place, license, supplier, arch=arch)

    def _rpm(self) -> Iterator[Package]:
        for path in DATABASES:
            place = self._file(path)
            if place is None:
                continue
            for each in read_packages(place):
                version, arch, epoch = f"{each.version}-{each.release}", each.architecture, each.epoch
                yield self._package(
                    "rpm", "", each.name, version, path, each.license, each.vendor, arch=arch, epoch=epoch
                )

    def _package(
        self,
        kind: str,
        distribution: str,
        name: str,
        version: str,
        place: bytes,
        license: str = "",
        supplier: str = "",
        **qualifiers: str,
    ) -> Package:
        """A package of the system; `distribution` is whose it is, if the release doesn't say."""
        namespace = self._release.get("ID") or distribution
        return Package(
            kind=kind,
            name=name,
            version=version,
            purl=_purl(kind, namespace, name, version, {**qualifiers, "distro": self._distro}),
            place=_text(place),
            license=_license(license),
            supplier=supplier,
        )

    @property
    def _distro(self) -> str:
        return "-".join(filter(None, (self._release.get("ID"), self._release.get("VERSION_ID"))))

    # languages

    def _by_folders(self) -> Iterator[Package]:
        """Walk the whole tree for what installers of languages leave beside the code."""
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(os.path.join(os.fsencode(self._top), folder)))
            except OSError:
                continue
            for entry in entries:
                path = folder + b"/" + entry.name if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if folder or entry.name not in _SKIPPED:
                        waiting.append(path)
                    if entry.name.endswith(b".dist-info"):
                        yield from self._python(path + b"/METADATA")
                    elif entry.name.endswith(b".egg-info"):
                        yield from self._python(path + b"/PKG-INFO")
                elif entry.name.endswith(b".egg-info"):
                    yield from self._python(path)
                elif entry.name == b"package.json" and _is_module(folder):
                    yield from self._npm(path)

    def _python(self, path: bytes) -> Iterator[Package]:
        fields = next(_paragraphs(self._read(path)), {})
        name, version = fields.get("Name", ""), fields.get("Version", "")
        if name and version:
            normal = re.sub(r"[-_.]+", "-", name).lower()
            yield Package(
                kind="pypi",
                name=name,
                version=version,
                purl=_purl("pypi", "", normal, version, {}),
                place=_text(path),
                license=_license(fields.get("License-Expression", "")),
            )

    def _npm(self, path: bytes) -> Iterator[Package]:
        try:
            value = json.loads(self._read(path) or b"null")
        except (ValueError, RecursionError):
            return
        name, version = (value.get("name"), value.get("version")) if isinstance(value, dict) else (None, None)
        if isinstance(name, str) and isinstance(version, str) and name and version:
            license = value.get("license")
            scope, _, bare = name.rpartition("/")
            yield Package(
                kind="npm",
                name=name,
                version=version,
                purl=_purl("npm", scope, bare, version, {}),
                place=_text(path),
                license=_license(license if isinstance(license, str) else ""),
            )

    # files

    def _file(self, path: bytes) -> Path | None:
        """Where a regular file of a bearable size is, symlinks on the way followed inside the tree."""
        try:
            found = find(self._tree, path)
        except (ContextRefused, OSError):
            return None
        if found is None or not stat.S_ISREG(found[1].mode) or found[1].size > LIMIT:
            return None
        return Path(os.fsdecode(os.path.join(os.fsencode(self._top), found[0])))

    def _read(self, path: bytes) -> bytes:
        place = self._file(path)
        try:
            return place.read_bytes() if place is not None else b""
        except OSError:
            return b""

    def _names(self, path: bytes) -> list[bytes]:
        try:
            found = find(self._tree, path)
            return [name for name, _ in self._tree.children(*found)] if found and found[1].is_directory else []
        except (ContextRefused, OSError):
            return []


def _is_module(folder: bytes) -> bool:
    """Whether a folder is a package that npm has installed: `node_modules/NAME` or `node_modules/@SCOPE/NAME`."""
    parts = folder.split(b"/")
    return parts[-2:-1] == [b"node_modules"] or (parts[-3:-2] == [b"node_modules"] and parts[-2].startswith(b"@"))


def _paragraphs(data: bytes) -> Iterator[dict[str, str]]:
    """Records of `Name: value` lines, between empty ones; only the first line of a value that has several."""
    fields: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name, value.strip())
    if fields:
        yield fields


def _release(data: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {name: value.strip().strip("\"'") for name, equals, value in lines if equals}


def _purl(kind: str, namespace: str, name: str, version: str, qualifiers: dict[str, str]) -> str:
    path = "/".join(quote(part, safe="") for part in (namespace, name) if part)
    more = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{path}@{quote(version, safe='')}" + (f"?{more}" if more else "")


def _license(text: str) -> str:
    return text if _LICENSE.fullmatch(text) else ""


def _text(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(find_packages(Path(sys.argv[1]))))
