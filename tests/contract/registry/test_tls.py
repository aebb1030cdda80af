"""TLS by files: served, taken up anew when they change, and certificates of clients."""

import asyncio
import contextlib
import gc
import shutil
import socket
import ssl
import subprocess
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scow.registry.settings import Settings, SettingsInvalid, Tls
from scow.registry.tls import Certificates, peer_name

from .certificates import Authority
from .conftest import Client

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> Tls:
    cert, key = authority.sign("server", server=True)
    shutil.copy(cert, tmp_path / "cert.pem")
    shutil.copy(key, tmp_path / "key.pem")
    return Tls(cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"))


def trusting(authority: Authority, identity: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as docker's and skopeo's TLS has it
    if identity is not None:
        context.load_cert_chain(*identity)
    return context


async def shown(url: str, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that the server shows; one request is answered to be sure."""
    host, port = url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return str(writer.get_extra_info("peercert")["serialNumber"])
    finally:
        writer.close()


async def test_blobs_go_both_ways_over_tls(
    serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority
) -> None:
    running = await serve(settings, tls=tls)
    assert running.url.startswith("https://")
    data = bytes(range(256)) * 10_000
    connector = aiohttp.TCPConnector(ssl=trusting(authority))
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        client = Client(session, running.url)
        digest = await client.push_blob(data)
        assert (await client("GET", f"/v2/test/repo/blobs/{digest}")).body == data
        part = await client("GET", f"/v2/test/repo/blobs/{digest}", Range="bytes=1000-1999999")
        assert part.body == data[1000:2_000_000]
        assert await client.push_image("latest")


async def test_an_older_version_of_tls_is_refused(
    serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority
) -> None:
    running = await serve(settings, tls=tls)
    context = trusting(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shown(running.url, context)


async def test_plain_http_on_the_tls_port_fails_at_once(
    serve: Callable[..., Any], settings: Settings, tls: Tls
) -> None:
    running = await serve(settings, tls=tls)
    reader, writer = await asyncio.open_connection(*running.url.removeprefix("https://").split(":"))
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        assert b"HTTP/1.1 200" not in await reader.read()
    writer.close()


async def test_changed_certificates_are_shown_to_the_next_client(
    serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.tls.RELOAD_S", 0.01)
    running = await serve(settings, tls=tls)
    context = trusting(authority)
    before = await shown(running.url, context)
    host, port = running.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    cert, key = authority.sign("renewed", server=True)
    # The first of two files changes: they don't fit, and the old ones go on being shown.
    shutil.copy(cert, tls.cert)
    await asyncio.sleep(0.1)
    assert await shown(running.url, context) == before
    shutil.copy(key, tls.key)
    async with asyncio.timeout(60):
        while await shown(running.url, context) == before:
            pass
    # A connection that was open stays so.
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


class TestClientCertificates:
    async def test_one_must_be_shown_that_the_authority_signed(
        self, serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority, stranger: Authority
    ) -> None:
        strict = Tls(cert=tls.cert, key=tls.key, client_ca=str(authority.cert))
        running = await serve(settings, tls=strict)
        await shown(running.url, trusting(authority, authority.sign("ann")))
        for identity in (None, stranger.sign("ann")):
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                await shown(running.url, trusting(authority, identity))

    async def test_the_authority_can_be_exchanged(
        self,
        serve: Callable[..., Any],
        settings: Settings,
        tls: Tls,
        authority: Authority,
        stranger: Authority,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("scow.registry.tls.RELOAD_S", 0.01)
        accepted = tmp_path / "clients.pem"
        shutil.copy(authority.cert, accepted)
        running = await serve(settings, tls=Tls(cert=tls.cert, key=tls.key, client_ca=str(accepted)))
        ours, theirs = (trusting(authority, signer.sign("ann")) for signer in (authority, stranger))
        await shown(running.url, ours)
        shutil.copy(stranger.cert, accepted)
        async with asyncio.timeout(60):
            while True:
                try:
                    await shown(running.url, theirs)
                    break
                except (ssl.SSLError, ConnectionError, AssertionError):
                    await asyncio.sleep(0.01)
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await shown(running.url, ours)

    async def test_a_client_may_be_allowed_to_show_none(
        self, serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority, stranger: Authority
    ) -> None:
        mild = Tls(cert=tls.cert, key=tls.key, client_ca=str(authority.cert), client_optional=True)
        running = await serve(settings, tls=mild)
        await shown(running.url, trusting(authority))
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await shown(running.url, trusting(authority, stranger.sign("ann")))

    async def test_one_that_is_revoked_counts_no_more(
        self,
        serve: Callable[..., Any],
        settings: Settings,
        tls: Tls,
        authority: Authority,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("scow.registry.tls.RELOAD_S", 0.01)
        ann, bob = authority.sign("ann"), authority.sign("bob")
        revoked = tmp_path / "revoked.pem"
        shutil.copy(authority.revocation_list(), revoked)
        strict = Tls(cert=tls.cert, key=tls.key, client_ca=str(authority.cert), client_crl=str(revoked))
        running = await serve(settings, tls=strict)
        for identity in (ann, bob):
            await shown(running.url, trusting(authority, identity))
        host, port = running.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting(authority, ann))
        shutil.copy(authority.revocation_list(ann[0]), revoked)
        async with asyncio.timeout(60):
            assert await reader.read() == b""  # connections of before end, to be begun anew by who still may
        writer.close()
        await shown(running.url, trusting(authority, bob))
        with pytest.raises(ssl.SSLError, match="REVOKED"):
            await shown(running.url, trusting(authority, ann))

    async def test_with_a_list_that_has_expired_nobody_is_trusted(
        self, serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority
    ) -> None:
        late = str(authority.revocation_list(expired=True))
        strict = Tls(cert=tls.cert, key=tls.key, client_ca=str(authority.cert), client_crl=late)
        running = await serve(settings, tls=strict)
        with pytest.raises(ssl.SSLError):
            await shown(running.url, trusting(authority, authority.sign("ann")))

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    async def test_a_session_is_not_resumed_since_its_certificate_may_be_revoked(
        self, serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority, version: str
    ) -> None:
        strict = Tls(cert=tls.cert, key=tls.key, client_ca=str(authority.cert))
        running = await serve(settings, tls=strict)
        context = trusting(authority, authority.sign("ann"))
        context.maximum_version = getattr(ssl.TLSVersion, version)
        host, port = running.url.removeprefix("https://").split(":")

        def ask(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool]:
            with (
                socket.create_connection((host, int(port))) as plain,
                context.wrap_socket(plain, server_hostname=host, session=session) as secure,
            ):
                secure.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                try:
                    answer = secure.recv(15)
                except OSError:  # closed: the session was known by its number
                    answer = b""
                return answer, secure.session, bool(secure.session_reused)

        answer, session, _ = await asyncio.to_thread(ask, None)
        assert answer == b"HTTP/1.1 200 OK"
        answer, _, reused = await asyncio.to_thread(ask, session)
        assert (answer, reused) in {(b"HTTP/1.1 200 OK", False), (b"", True)}

    async def test_who_is_turned_away_is_told_why_and_so_is_the_log(
        self,
        serve: Callable[..., Any],
        settings: Settings,
        tls: Tls,
        authority: Authority,
        stranger: Authority,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("scow.registry.tls.REFUSALS_S", 0)
        strict = Tls(cert=tls.cert, key=tls.key, client_ca=str(authority.cert))
        running = await serve(settings, tls=strict)
        for identity, told, logged in (
            (None, "REQUIRED", "it shows no certificate"),
            (authority.sign("late", days=-1), "EXPIRED", "certificate has expired"),
            (stranger.sign("ann"), "UNKNOWN_CA", "unable to get local issuer certificate"),
        ):
            caplog.clear()
            with pytest.raises(ssl.SSLError, match=told):
                await shown(running.url, trusting(authority, identity))
            said = [each.getMessage() for each in caplog.records if each.name == "scow.registry.tls.clients"]
            assert said == [f"a client is turned away: {logged}"]


class TestFiles:
    def test_what_is_about_clients_needs_their_authority(self, tls: Tls) -> None:
        with pytest.raises(SettingsInvalid, match="mean nothing without client_ca"):
            Certificates(Tls(cert=tls.cert, key=tls.key, client_names=True))

    def test_a_missing_file_is_named(self, tls: Tls) -> None:
        with pytest.raises(SettingsInvalid, match="/nowhere: No such file"):
            Certificates(Tls(cert="/nowhere", key=tls.key))

    def test_a_key_of_another_certificate_is_refused(self, tls: Tls, stranger: Authority) -> None:
        with pytest.raises(SettingsInvalid, match="the key does not belong to the certificate"):
            Certificates(Tls(cert=tls.cert, key=str(stranger.key)))

    def test_what_is_no_certificate_is_refused(self, tls: Tls, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("hello")
        with pytest.raises(SettingsInvalid, match=r"x: no PEM was found|x: .*CERTIFICATE|x: not a certificate"):
            Certificates(Tls(cert=tls.cert, key=tls.key, client_ca=str(tmp_path / "x")))

    def test_the_common_name_is_the_clients(self) -> None:
        subject = ((("organizationName", "x"),), (("commonName", "ann"),))
        assert peer_name({"subject": subject}) == "ann"
        assert peer_name({}) is None


async def test_a_client_that_never_finishes_its_hello_costs_nothing_to_others(
    serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority
) -> None:
    running = await serve(settings, tls=tls)
    host, port = running.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.send(b"\x16\x03\x01")
        assert await shown(running.url, trusting(authority))


async def test_handshakes_that_fail_leave_little_behind(
    serve: Callable[..., Any], settings: Settings, tls: Tls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.connections.UNMADE_LIMIT", 20)
    running = await serve(settings, tls=tls)
    host, port = running.url.removeprefix("https://").split(":")
    gc.collect()
    gc.disable()  # as where little else makes garbage
    try:
        for _ in range(50):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /v2/ HTTP/1.1\r\n\r\n")  # in plain HTTP
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        left = sum(isinstance(each, SSLProtocol) for each in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 25
    assert await shown(running.url, trusting(authority))


def end_of(cert: Path) -> float:
    command = ["openssl", "x509", "-enddate", "-noout", "-in", cert]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return ssl.cert_time_to_seconds(told.removeprefix("notAfter=").strip())


@pytest.mark.parametrize(("days", "said"), [(-1, "has expired at"), (2, ""), (20_000, "")])
async def test_a_certificate_that_expires_is_told(
    serve: Callable[..., Any],
    settings: Settings,
    authority: Authority,
    tls: Tls,
    days: int,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cert, key = authority.sign("server", server=True, days=days)
    shutil.copy(cert, tls.cert)
    shutil.copy(key, tls.key)
    loaded = Certificates(tls)
    assert loaded.expires_at == end_of(cert)
    assert said in loaded.expiry(time.time())
    assert bool(loaded.expiry(time.time())) == bool(said)
    assert days < 0 or "expires at" in loaded.expiry(loaded.expires_at - 1)
    assert "not valid yet" in loaded.expiry(0.0)
    running = await serve(settings, tls=tls)
    async with asyncio.timeout(60):
        while not running.registry.metrics.value("tls_certificate_expiry_timestamp_seconds"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    name = "scow_registry_tls_certificate_expiry_timestamp_seconds"
    assert f"{name} {loaded.expires_at:.0f}\n" in running.registry.metrics.text()
    assert ("has expired at" in caplog.text) == bool(said)
