"""Certificates: the system's CAs and what `certs.d/HOST[:PORT]/` holds, as contexts for TLS connections."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scow.errors import InvalidArgument


class BadCertificates(InvalidArgument):
    """A folder of `certs.d` holds something that can't be used."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{why} in {path}. CA certificates must use the extension .crt")
        self.path = path


class _Material(msgspec.Struct, frozen=True):
    """Files that make up a context, each with the time of its last change (so that edits are seen without restart)."""

    verify: bool
    authorities: tuple[tuple[str, int], ...]
    pairs: tuple[tuple[str, str, int], ...]


class TlsContexts:
    """Makes TLS contexts and keeps them, so that connections to one host share one and can be kept alive."""

    def __init__(self) -> None:
        self._contexts: dict[_Material, ssl.SSLContext] = {}

    async def get(self, certs_dirs: Sequence[str], host: str, *, verify: bool, origin: str = "") -> ssl.SSLContext:
        """The context for `host` (`name[:port]`), with what the folders named so in `certs_dirs` hold.

        `origin` is the registry that redirected to `host`: its CAs are trusted there too, while its client
        certificates are not shown to others. Raises BadCertificates.
        """
        return await asyncio.to_thread(self._get, certs_dirs, host, verify, origin)

    def _get(self, certs_dirs: Sequence[str], host: str, verify: bool, origin: str) -> ssl.SSLContext:
        authorities, pairs = _files(certs_dirs, host)
        if origin and origin != host:
            authorities += _files(certs_dirs, origin)[0]
        material = _Material(verify, tuple(authorities), tuple(pairs))
        context = self._contexts.get(material)
        if context is None:
            context = self._contexts[material] = _make(material)
        return context


def _files(certs_dirs: Sequence[str], host: str) -> tuple[list[tuple[str, int]], list[tuple[str, str, int]]]:
    authorities: list[tuple[str, int]] = []
    pairs: list[tuple[str, str, int]] = []
    if not host or "/" in host or host.startswith("."):
        return authorities, pairs
    for folder in (Path(directory) / host for directory in certs_dirs):
        try:
            names = sorted(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = folder / name
            if name.endswith(".crt"):
                authorities.append((str(path), path.stat().st_mtime_ns))
            elif name.endswith(".cert"):
                key = path.with_suffix(".key")
                if key.name not in names:
                    raise BadCertificates(folder, f"missing key {key.name} for client certificate {name}")
                pairs.append((str(path), str(key), path.stat().st_mtime_ns))
            elif name.endswith(".key") and path.with_suffix(".cert").name not in names:
                certificate = path.with_suffix(".cert").name
                raise BadCertificates(folder, f"missing client certificate {certificate} for key {name}")
    return authorities, pairs


def _make(material: _Material) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # ALPN h2 isn't offered: aiohttp speaks HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    if material.verify:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path, _ in material.authorities:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificates(Path(path), f"cannot load the CA certificate ({error})") from error
    for certificate, key, _ in material.pairs:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise BadCertificates(Path(certificate), f"cannot load the client certificate ({error})") from error
    return context


def _no_password() -> str:
    # Without a callback OpenSSL would ask on the terminal for the key's password, and hold the engine.
    return ""
