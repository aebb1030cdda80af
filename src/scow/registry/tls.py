"""Certificates by files, taken up anew when the files change, and certificates of clients.

Listening sockets keep the context that they were given for ever; the handshake of each connection swaps in the
current one (in OpenSSL's server name callback, which is called without a server name too).
"""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from scow.registry.settings import SettingsInvalid, Tls

RELOAD_S: Final = 2.0
"""Seconds between two looks at the files."""

Stamp = tuple[tuple[int, int, int], ...]

log = logging.getLogger("scow.registry.tls")


class Certificates:
    """The server's certificate and key, and whose certificates clients may show."""

    def __init__(self, tls: Tls) -> None:
        """Load the files. Blocks. Raises SettingsInvalid."""
        self._tls = tls
        self._stamp = self._look()
        self._current = self._load()
        self.context = self._load()
        """For the listening socket."""
        self.context.sni_callback = self._swap

    def _swap(self, connection: ssl.SSLObject, server_name: str | None, initial: ssl.SSLContext) -> None:
        connection.context = self._current

    def _files(self) -> list[Path]:
        names = [self._tls.cert, self._tls.key, *([self._tls.client_ca] if self._tls.client_ca else [])]
        return [Path(name) for name in names]

    def _look(self) -> Stamp:
        try:
            stats = [path.stat() for path in self._files()]
        except OSError as error:
            raise SettingsInvalid(str(error.filename), error.strerror or str(error)) from error
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _load(self) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # A password asked for on the terminal would hang the server.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise SettingsInvalid(f"{tls.cert}, {tls.key}", _why(error)) from error
        if tls.client_ca:
            try:
                context.load_verify_locations(tls.client_ca)
            except (OSError, ValueError) as error:
                raise SettingsInvalid(tls.client_ca, _why(error)) from error
            context.verify_mode = ssl.CERT_OPTIONAL if tls.client_optional else ssl.CERT_REQUIRED
        return context

    def reload(self) -> bool:
        """Take up changed files; whether there were any. Blocks. Raises SettingsInvalid, and the old ones stay."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._current = self._load()
        return True

    async def watch(self) -> None:
        """Reload when files change, until cancelled. Files that cannot be used are logged, once for each change."""
        said = ""
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                if await asyncio.to_thread(self.reload):
                    log.info("certificates were loaded anew from %s", self._tls.cert)
                said = ""
            except SettingsInvalid as error:
                if said != (said := str(error)):
                    log.error("certificates are kept as they were: %s", error)


def peer_name(certificate: "dict[str, object] | None") -> str | None:
    """The common name in a client's certificate, as `SSLObject.getpeercert()` shows it."""
    if not certificate:
        return None
    for names in certificate.get("subject", ()):  # type: ignore[attr-defined]  # a tuple of tuples of pairs
        for key, value in names:
            if key == "commonName":
                return str(value)
    return None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return {
            "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
            "NO_START_LINE": "no PEM was found",
        }.get(error.reason or "", error.reason or "not a certificate, or not its key")
    return getattr(error, "strerror", None) or str(error)
