"""The contexts that docker's tools keep, below ~/.docker/contexts: an engine's address and TLS files by a name.

`meta/<sha256 of the name>/meta.json` holds what is shown, `tls/<same>/docker/` the files. The context `default` is not
on disk: it is what flags and environment say.
"""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.hosts import context_folder
from scow.cli.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

DEFAULT = "default"
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
META = "meta.json"
NAME_RULE = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"
MOST_BYTES = 10 << 20  # docker's own bound for an archive


def check_name(name: str) -> None:
    """Raise CliError for names that no context on disk can have."""
    import re

    if name == DEFAULT:
        raise CliError('"default" is a reserved context name')
    if not re.fullmatch(NAME_RULE.strip("^$"), name):
        raise CliError(f'context name "{name}" is invalid, names are validated against regexp "{NAME_RULE}"')


class ContextStore:
    """The contexts below a configuration folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def meta_folder(self, name: str) -> str:
        return context_folder(self._folder, "meta", name)

    def tls_folder(self, name: str) -> str:
        return context_folder(self._folder, "tls", name)

    def all(self) -> list[dict[str, Any]]:
        """What each context's file says; files that can't be read are left out."""
        top = os.path.join(self._folder, "contexts", "meta")
        found = []
        for entry in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            try:
                with open(os.path.join(top, entry, META), "rb") as file:
                    found.append(loads(file.read()))
            except (OSError, ValueError):
                continue
        return found

    def exists(self, name: str) -> bool:
        return os.path.isdir(self.meta_folder(name))

    def read(self, name: str) -> dict[str, Any]:
        """Raises CliError, in docker's words, if there is no such context or its file is broken."""
        path = os.path.join(self.meta_folder(name), META)
        try:
            with open(path, "rb") as file:
                found = loads(file.read())
        except FileNotFoundError:
            raise CliError(f'context "{name}": context not found: open {path}: no such file or directory') from None
        except (OSError, ValueError) as error:
            raise CliError(f'context "{name}": {error}') from None
        if not isinstance(found, dict):
            raise CliError(f'context "{name}": {path} is not a JSON object')
        return found

    def tls(self, name: str) -> dict[str, bytes]:
        """The TLS files of a context by their names; empty if it has none."""
        folder = os.path.join(self.tls_folder(name), "docker")
        files = {}
        for file_name in TLS_FILES:
            try:
                with open(os.path.join(folder, file_name), "rb") as file:
                    files[file_name] = file.read()
            except (FileNotFoundError, NotADirectoryError):
                continue
        return files

    def write(self, meta: dict[str, Any], tls: Mapping[str, bytes] | None) -> None:
        """Make or replace a context; `tls` None leaves its files alone. The name appears last, by a rename."""
        name = str(meta["Name"])
        if tls is not None:
            self._remove_tls(name)
            for file_name, content in tls.items():
                folder = os.path.join(self.tls_folder(name), "docker")
                os.makedirs(folder, mode=0o700, exist_ok=True)
                _write(os.path.join(folder, file_name), content, 0o600)
        os.makedirs(self.meta_folder(name), mode=0o755, exist_ok=True)
        _write(os.path.join(self.meta_folder(name), META), dumps(meta).encode(), 0o644)

    def remove(self, name: str) -> None:
        import shutil

        shutil.rmtree(self.meta_folder(name), ignore_errors=True)
        self._remove_tls(name)

    def _remove_tls(self, name: str) -> None:
        import shutil

        shutil.rmtree(self.tls_folder(name), ignore_errors=True)


def _write(path: str, content: bytes, mode: int) -> None:
    new = f"{path}.{os.getpid()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise


def pack(meta: dict[str, Any], tls: Mapping[str, bytes]) -> bytes:
    """A context as the tar that `context import` of docker and Scow takes."""
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(path: str, content: bytes | None, mode: int) -> None:
            entry = tarfile.TarInfo(path)
            entry.mode = mode
            if content is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

        add(META, dumps(meta).encode(), 0o644)
        add("tls", None, 0o700)
        if tls:
            add("tls/docker", None, 0o700)
        for name, content in tls.items():
            add(f"tls/docker/{name}", content, 0o600)
    return out.getvalue()


def unpack(source: BinaryIO) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read what `pack`, or docker (tar or zip), wrote. Nothing is extracted. Raises CliError for anything else."""
    data = source.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise CliError(f"the archive is larger than {MOST_BYTES >> 20} MiB: it is no exported context")
    members = _zip_members(data) if data.startswith(b"PK\x03\x04") else _tar_members(data)
    tls: dict[str, bytes] = {}
    meta: object = None
    for path, content in members.items():
        if path == META:
            try:
                meta = loads(content)
            except ValueError as error:
                raise CliError(f"{META} in the archive is no JSON: {error}") from None
        elif path.startswith("tls/docker/") and path.removeprefix("tls/docker/") in TLS_FILES:
            tls[path.removeprefix("tls/docker/")] = content
        else:
            raise CliError(f"{path}: unexpected path in the archive of a context")
    if not isinstance(meta, dict) or not isinstance(meta.get("Endpoints"), dict):
        raise CliError("invalid context: no metadata found")
    return meta, tls


def _tar_members(data: bytes) -> dict[str, bytes]:
    import io
    import tarfile

    found: dict[str, bytes] = {}
    whole = data + bytes(-len(data) % 512 + 1024)  # docker's client (28.2) ends its archives without the last blocks
    try:
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
            for entry in archive:
                if entry.isdir():
                    continue
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None:
                    raise CliError(f"{entry.name}: only regular files are expected in the archive of a context")
                found[entry.name] = file.read()
    except tarfile.TarError as error:
        raise CliError(f"the archive of a context can't be read: {error}") from None
    return found


def _zip_members(data: bytes) -> dict[str, bytes]:
    import io
    import zipfile

    found: dict[str, bytes] = {}
    left = MOST_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                with archive.open(entry) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise CliError(f"what the archive holds is larger than {MOST_BYTES >> 20} MiB")
                found[entry.filename] = content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise CliError(f"the archive of a context can't be read: {error}") from None
    return found
