"""Plugins of the classic kind: programs that answer HTTP on a socket, found by files in well-known folders.

`NAME.sock` or `NAME/NAME.sock` is a plugin's socket, `NAME.spec` a file with its address, `NAME.json` a description
with `Addr` and, maybe, TLS keys. Each call is one POST of a JSON object. docker's extend/plugin_api.md.
"""

import asyncio
import json
import ssl
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from scow.errors import Internal, NotFound, Unavailable

MEDIA_TYPE: Final = "application/vnd.docker.plugins.v1.2+json"
REPLY_LIMIT: Final = 1 << 20  # bytes
ACTIVATION: Final = "Plugin.Activate"


class NoSuchPlugin(NotFound):
    """No file tells where the plugin is, or it does something else."""

    def __init__(self, name: str) -> None:
        super().__init__(f'error looking up volume plugin {name}: plugin "{name}" not found')
        self.name = name


class PluginUnavailable(Unavailable):
    """The plugin is not there any more, or did not answer in time."""

    def __init__(self, name: str, method: str, reason: str) -> None:
        super().__init__(f'plugin "{name}" is unavailable: {method}: {reason}')
        self.name = name


class PluginFailed(Internal):
    """The plugin answered that it could not do what was asked."""

    def __init__(self, name: str, method: str, reason: str, *, status: int = 200) -> None:
        super().__init__(f"{method}: {reason}")
        self.name = name
        self.status = status


class _Tls(msgspec.Struct, frozen=True, rename="pascal"):
    insecure_skip_verify: bool = False
    ca_file: str = msgspec.field(name="CAFile", default="")
    cert_file: str = ""
    key_file: str = ""


class _Description(msgspec.Struct, frozen=True, rename="pascal"):
    name: str = ""
    addr: str = ""
    tls_config: _Tls | None = msgspec.field(name="TLSConfig", default=None)


class Plugins:
    """Finds plugins in `folders` and calls them; no call takes longer than `timeout_s`."""

    def __init__(self, folders: Sequence[Path], timeout_s: float) -> None:
        self._folders = tuple(folders)
        self._timeout_s = timeout_s
        self._active: dict[str, tuple[str, Collection[str]]] = {}  # by name: the address, and what it implements

    async def names(self) -> list[str]:
        """All plugins that have a file."""
        return await asyncio.to_thread(self._names)

    def active(self, role: str) -> Sequence[str]:
        """Plugins that have answered and implement `role`."""
        return sorted(name for name, (_, roles) in self._active.items() if role in roles)

    async def activate(self, name: str) -> Collection[str]:
        """Make sure that the plugin answers, and return what it implements. Raises NoSuchPlugin, PluginUnavailable."""
        found = await asyncio.to_thread(self._find, name)
        if found is None:
            self._active.pop(name, None)
            raise NoSuchPlugin(name)
        known = self._active.get(name)
        if known is not None and known[0] == found.addr:
            return known[1]
        answer = await self._post(name, found, ACTIVATION, None)
        implements = answer.get("Implements")
        roles = tuple(str(each) for each in implements) if isinstance(implements, list) else ()
        self._active[name] = (found.addr, roles)
        return roles

    async def call(self, name: str, method: str, request: Mapping[str, object]) -> dict[str, Any]:
        """Call an activated plugin. Raises NoSuchPlugin, PluginUnavailable, and PluginFailed with what it says."""
        found = await asyncio.to_thread(self._find, name)
        if found is None:
            raise NoSuchPlugin(name)
        try:
            return await self._post(name, found, method, request)
        except PluginUnavailable:
            self._active.pop(name, None)  # another one may answer there next time: it introduces itself again
            raise

    async def _post(
        self, name: str, found: _Description, method: str, request: Mapping[str, object] | None
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                tls = await asyncio.to_thread(_tls_context, found)
                connector, url = _connection(found, tls)
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session,
                    session.post(
                        f"{url}/{method}",
                        data=b"" if request is None else json.dumps(request).encode(),
                        headers={"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE},
                        allow_redirects=False,
                    ) as response,
                ):
                    data = await _limited(response)
                    status = response.status
        except TimeoutError as error:
            raise PluginUnavailable(name, method, f"no answer in {self._timeout_s:g} seconds") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PluginUnavailable(name, method, str(error) or type(error).__name__) from error
        try:
            answer = json.loads(data) if data.strip() else {}
        except ValueError:
            answer = None
        reason = answer.get("Err") if isinstance(answer, dict) else ""
        if status != 200 or reason:
            said = str(reason or data.decode(errors="replace").strip() or f"status {status}")
            raise PluginFailed(name, method, said, status=status)
        if not isinstance(answer, dict):
            raise PluginFailed(name, method, "its answer is not a JSON object")
        return answer

    def _names(self) -> list[str]:
        found: set[str] = set()
        for folder in self._folders:
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.suffix in (".sock", ".spec", ".json"):
                    found.add(file.stem)
                elif (file / f"{file.name}.sock").exists():
                    found.add(file.name)
        return sorted(found)

    def _find(self, name: str) -> _Description | None:
        if not name or "/" in name or name.startswith("."):
            return None
        for folder in self._folders:
            for path in (folder / f"{name}.sock", folder / name / f"{name}.sock"):
                if path.is_socket():
                    return _Description(name, f"unix://{path}")
        for folder in self._folders:
            for path in (folder / f"{name}.spec", folder / name / f"{name}.spec"):
                if path.is_file():
                    return _Description(name, path.read_text().strip())
            for path in (folder / f"{name}.json", folder / name / f"{name}.json"):
                if path.is_file():
                    return _described(name, path)
        return None


def _described(name: str, path: Path) -> _Description:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Description)
    except msgspec.MsgspecError as error:
        raise PluginUnavailable(name, ACTIVATION, f"{path} is no description of a plugin: {error}") from error


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > REPLY_LIMIT:
            raise ValueError(f"its answer is longer than {REPLY_LIMIT} bytes")
    return bytes(data)


def _tls_context(found: _Description) -> ssl.SSLContext | None:
    """The keys that a description names. Blocks. Raises OSError."""
    if found.tls_config is None and not found.addr.startswith("https://"):
        return None
    tls = found.tls_config or _Tls()
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return context


def _connection(found: _Description, tls: ssl.SSLContext | None) -> tuple[aiohttp.BaseConnector, str]:
    """What carries calls to a plugin's address, and the beginning of their URLs. Raises ValueError."""
    scheme, _, rest = found.addr.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return aiohttp.UnixConnector(rest), "http://plugin"
    parts = urlsplit(found.addr)
    if scheme not in ("tcp", "http", "https") or not parts.hostname:
        raise ValueError(f"{found.addr!r} is no address of a plugin")
    if tls is None:
        return aiohttp.TCPConnector(), f"http://{parts.netloc}"
    return aiohttp.TCPConnector(ssl=tls), f"https://{parts.netloc}"
