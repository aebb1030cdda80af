"""Certificates by files, taken up anew when the files change, and certificates of clients.

Listening sockets keep the context that they were given for ever; the handshake of each connection swaps in the
current one (in OpenSSL's server name callback, which is called without a server name too).

Clients whose certificates count begin anew with each connection: a session that is resumed says what was true when it
began, whoever is trusted or revoked since.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scow.registry.settings import SettingsInvalid, Tls

RELOAD_S: Final = 2.0
"""Seconds between two looks at the files."""

Stamp = tuple[tuple[int, int, int], ...]

REFUSALS_S: Final = 10.0
"""Between two lines about clients that were turned away: anybody can be."""

log = logging.getLogger("scow.registry.tls")
refusals_log = logging.getLogger("scow.registry.tls.clients")


class _Seldom(logging.Filter):
    """Lets a line through once in a while."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at = -REFUSALS_S

    def filter(self, record: logging.LogRecord) -> bool:
        if (now := time.monotonic()) - self._said_at < REFUSALS_S:
            return False
        self._said_at = now
        return True


refusals_log.addFilter(_Seldom())


class _Handshake(ssl.SSLObject):
    """Tells clients why their certificates are refused, and the log."""

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                why = error.verify_message
            elif error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
                why = "it shows no certificate"
            else:
                raise
            refusals_log.warning("a client is turned away: %s", why)
            self._failure = error
            # asyncio drops what a failed handshake has to say, but sends it where the handshake wants to go on. The
            # client then ends the connection, or the time for handshakes does.
            raise ssl.SSLWantReadError from error
        if self.session_reused and self.context.verify_mode != ssl.CERT_NONE:
            raise ssl.SSLError("a session was resumed")  # of TLS 1.2, by its number: that cannot be turned off


class Certificates:
    """The server's certificate and key, and whose certificates clients may show."""

    def __init__(self, tls: Tls) -> None:
        """Load the files. Blocks. Raises SettingsInvalid."""
        if tls.client_ca is None and (tls.client_crl or tls.client_names or tls.client_optional):
            raise SettingsInvalid("tls", "client_crl, client_names and client_optional mean nothing without client_ca")
        self._tls = tls
        self._stamp = self._look()
        self._current = self._load()
        self.context = self._load()
        """For the listening socket."""
        self.context.sni_callback = self._swap

    def _swap(self, connection: ssl.SSLObject, server_name: str | None, initial: ssl.SSLContext) -> None:
        connection.context = self._current

    def _files(self) -> list[Path]:
        tls = self._tls
        return [Path(name) for name in (tls.cert, tls.key, tls.client_ca, tls.client_crl) if name]

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
            context.sslobject_class = _Handshake
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
        if tls.client_crl:
            try:
                context.load_verify_locations(tls.client_crl)
            except (OSError, ValueError) as error:
                raise SettingsInvalid(tls.client_crl, _why(error)) from error
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def reload(self) -> bool:
        """Take up changed files; whether there were any. Blocks. Raises SettingsInvalid, and the old ones stay."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._current = self._load()
        return True

    async def watch(self, on_clients: Callable[[], None]) -> None:
        """Reload when files change, until cancelled. Files that cannot be used are logged, once for each change.

        `on_clients` is called when other clients may be trusted than before.
        """
        said = ""
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                if await asyncio.to_thread(self.reload):
                    log.info("certificates were loaded anew from %s", self._tls.cert)
                    if self._tls.client_ca:
                        on_clients()
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
        }.get(error.reason or "", error.reason or "no PEM of a certificate and of its key, without a password")
    return getattr(error, "strerror", None) or str(error)
