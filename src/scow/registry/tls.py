"""Certificates by files, taken up anew when the files change, and certificates of clients.

Listening sockets keep the context that they were given for ever; the handshake of each connection swaps in the
current one (in OpenSSL's server name callback, which is called without a server name too).

Clients whose certificates count begin anew with each connection: a session that is resumed says what was true when it
began, whoever is trusted or revoked since.
"""

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from scow.registry.settings import SettingsInvalid, Tls

RELOAD_S: Final = 2.0
"""Seconds between two looks at the files."""

Stamp = tuple[tuple[int, int, int], ...]

REFUSALS_S: Final = 10.0
"""Between two lines about clients that were turned away: anybody can be."""

EXPIRY_S: Final = 14 * 86400.0
"""A certificate that expires within so long is told of, or within a third of its life if that is less."""
REMIND_S: Final = 86400.0
_PEM: Final = re.compile("-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17

log = logging.getLogger("scow.registry.tls")
refusals_log = logging.getLogger("scow.registry.tls.clients")


def validity(path: Path) -> tuple[float, float] | None:
    """From when to when a file's certificates are all valid (seconds since the epoch); None if that can't be read.

    RFC 5280 section 4.1.2.5. Python's ssl tells it of peers alone.
    """
    try:
        times = [_times(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(path.read_text())]
    except (OSError, ValueError, IndexError):
        return None
    return (max(first for first, _ in times), min(last for _, last in times)) if times else None


def _times(der: bytes) -> tuple[float, float]:
    """When a certificate begins and ends to be valid. Raises ValueError and IndexError."""
    body = _element(_element(der, 0)[1], 0)[1]
    offset, left = 0, 3  # its serial number, algorithm and issuer come before
    while left:
        tag, _, offset = _element(body, offset)
        left -= tag != _VERSION
    span = _element(body, offset)[1]
    tag, first, offset = _element(span, 0)
    last_tag, last, _ = _element(span, offset)
    return _time(tag, first), _time(last_tag, last)


def _element(data: bytes, offset: int) -> tuple[int, bytes, int]:
    """Tag and content of an element of DER, and where the next one begins."""
    tag, size, offset = data[offset], data[offset + 1], offset + 2
    if size >= 0x80:
        digits = size & 0x7F
        size, offset = int.from_bytes(data[offset : offset + digits], "big"), offset + digits
    return tag, data[offset : offset + size], offset + size


def _time(tag: int, text: bytes) -> float:
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    found = datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    return (found.replace(year=found.year - 100) if tag == _UTC_TIME and found.year >= 2050 else found).timestamp()


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
        self._validity = validity(Path(tls.cert))
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

    @property
    def expires_at(self) -> float:
        """When the certificate, or one of its chain, expires (seconds since the epoch); 0 if that can't be told."""
        return self._validity[1] if self._validity is not None else 0.0

    def expiry(self, now: float) -> str:
        """A sentence about a certificate that has expired or soon will; empty if there is nothing to tell."""
        if self._validity is None:
            return ""
        begins, ends = self._validity
        when = time.strftime("%F %T UTC", time.gmtime(ends))
        if now >= ends:
            return f"tls.cert: {self._tls.cert} has expired at {when}: clients refuse it"
        if now < begins:
            return f"tls.cert: {self._tls.cert} is not valid yet: clients refuse it"
        if ends - now < min(EXPIRY_S, (ends - begins) / 3):
            return f"tls.cert: {self._tls.cert} expires at {when}, in {(ends - now) / 86400:.1f} days"
        return ""

    def reload(self) -> bool:
        """Take up changed files; whether there were any. Blocks. Raises SettingsInvalid, and the old ones stay."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._current = self._load()
        self._validity = validity(Path(self._tls.cert))
        return True

    async def watch(self, on_clients: Callable[[], None], on_expiry: Callable[[float], None] | None = None) -> None:
        """Reload when files change, until cancelled. Files that cannot be used are logged, once for each change.

        `on_clients` is called when other clients may be trusted than before. `on_expiry` gets `expires_at`, now and
        after each change; where it is given the log tells of it too, once a day.
        """
        said, remind_at = "", 0.0
        while True:
            if on_expiry is not None and time.monotonic() >= remind_at:
                remind_at = time.monotonic() + REMIND_S
                on_expiry(self.expires_at)
                if sentence := self.expiry(time.time()):
                    log.warning("%s", sentence)
            await asyncio.sleep(RELOAD_S)
            try:
                if await asyncio.to_thread(self.reload):
                    remind_at = 0.0
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
