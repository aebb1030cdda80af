"""The client against a registry that asks for credentials, sends elsewhere, stumbles and lies."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument, NotFound, Unauthorized, Unavailable
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, sha256
from scow.oci.reference import parse_reference
from scow.transfer.client import RegistryClient, VerificationFailed
from scow.transfer.credentials import Credentials
from scow.transfer.hosts import Endpoint, HostPolicy
from scow.transfer.login import LoginRefused, authenticate
from scow.transfer.pull import resolve
from scow.transfer.registries import Registries
from scow.transfer.registry_error import AuthenticationFailed, BadAnswer, Refused, RegistryUnreachable
from scow.transfer.uploads import Upload

ANN = Credentials(username="ann", password="secret")
SCOPE = "repository:team/app:pull"


def client_of(
    registries: Registries,
    registry: Any,
    credentials: Credentials | None = None,
    *,
    actions: tuple[str, ...] = ("pull",),
) -> RegistryClient:
    return registries.client(Endpoint(url=registry.url, verify=False), "team/app", credentials, actions=actions)


def put(registry: Any, data: bytes = b'{"schemaVersion":2}') -> Digest:
    digest: Digest = registry.put_manifest("team/app", "latest", data, media_types.OCI_MANIFEST)
    return digest


def blob_of(registry: Any, data: bytes) -> Descriptor:
    return Descriptor(media_type="x", digest=registry.put_blob("team/app", data), size=len(data))


# --- authentication ---------------------------------------------------------------------------------------------------


async def test_basic_credentials_are_sent_once_they_are_asked_for(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users = "basic", {"ann": "secret"}
    digest = put(registry)
    client = client_of(registries, registry, ANN)
    assert (await client.manifest("latest")).digest == digest
    await client.manifest("latest")
    assert ["authorization" in seen.headers for seen in registry.seen] == [False, True, True]


async def test_without_credentials_a_basic_challenge_is_answered_in_dockers_words(
    registry: Any, registries: Registries
) -> None:
    registry.auth = "basic"
    with pytest.raises(AuthenticationFailed, match=r'Get "http.*": no basic auth credentials') as failure:
        await client_of(registries, registry).manifest("latest")
    assert isinstance(failure.value, Unauthorized)


async def test_wrong_basic_credentials_are_not_tried_twice(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users = "basic", {"ann": "other"}
    with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
        await client_of(registries, registry, ANN).manifest("latest")
    assert len(registry.seen) == 2


async def test_a_token_is_fetched_for_the_scope_and_kept(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users = "bearer", {"ann": "secret"}
    put(registry)
    client = client_of(registries, registry, ANN)
    await asyncio.gather(*(client.manifest("latest") for _ in range(5)))
    [token] = registry.asked("GET", "^/token$")
    assert token.query == {"account": ["ann"], "scope": [SCOPE], "service": ["fake"]}
    assert token.headers["authorization"].startswith("Basic ")


async def test_anonymous_callers_get_a_token_too(registry: Any, registries: Registries) -> None:
    registry.auth = "bearer"
    put(registry)
    await client_of(registries, registry).manifest("latest")
    [token] = registry.asked("GET", "^/token$")
    assert "authorization" not in token.headers
    assert "account" not in token.query


async def test_an_identity_token_goes_by_post_to_the_token_service_only(registry: Any, registries: Registries) -> None:
    registry.auth, registry.identity_token, registry.token_methods = "bearer", "refresh-me", {"POST"}
    put(registry)
    await client_of(registries, registry, Credentials(identity_token="refresh-me")).manifest("latest")
    [token] = registry.asked("POST", "^/token$")
    assert b"grant_type=refresh_token" in token.body
    assert b"refresh_token=refresh-me" in token.body
    assert not any("refresh-me" in str(seen.headers) for seen in registry.seen)


async def test_a_token_service_that_knows_only_oauth_gets_a_password_grant(
    registry: Any, registries: Registries
) -> None:
    registry.auth, registry.users, registry.token_methods = "bearer", {"ann": "secret"}, {"POST"}
    put(registry)
    await client_of(registries, registry, ANN).manifest("latest")
    [token] = registry.asked("POST", "^/token$")
    assert b"grant_type=password" in token.body


async def test_a_registry_token_is_used_as_it_is(registry: Any, registries: Registries) -> None:
    registry.auth, registry.tokens = "bearer", {"given": frozenset([SCOPE])}
    put(registry)
    await client_of(registries, registry, Credentials(registry_token="given")).manifest("latest")
    assert [seen.headers.get("authorization") for seen in registry.seen] == ["Bearer given"]


async def test_an_expired_token_is_replaced(registry: Any, registries: Registries) -> None:
    registry.auth = "bearer"
    put(registry)
    client = client_of(registries, registry)
    await client.manifest("latest")
    registry.tokens.clear()
    await client.manifest("latest")
    assert len(registry.asked("GET", "^/token$")) == 2


async def test_a_token_that_does_not_suffice_means_denied(registry: Any, registries: Registries) -> None:
    registry.auth, registry.grants = "bearer", lambda user, scope: False
    put(registry)
    with pytest.raises(Refused, match="denied: requested access to the resource is denied") as refusal:
        await client_of(registries, registry).manifest("latest")
    assert refusal.value.code == "DENIED"


async def test_a_refused_password_is_told_in_the_token_services_words(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users = "bearer", {"ann": "other"}
    with pytest.raises(AuthenticationFailed, match=r'".*/v2/": unauthorized: incorrect username or password'):
        await client_of(registries, registry, ANN).manifest("latest")


async def test_scopes_that_the_registry_asks_for_are_added_to_ours(registry: Any, registries: Registries) -> None:
    registry.auth = "bearer"
    blob = blob_of(registry, b"x")
    client = client_of(registries, registry)  # knows of pull only
    async with client.request("POST", client.url("blobs/uploads/"), expect=(202,)):
        pass
    assert set(registry.asked("GET", "^/token$")[-1].query["scope"]) == {SCOPE, f"{SCOPE},push"}
    assert await client.blob_size(blob.digest) == 1


# --- login ------------------------------------------------------------------------------------------------------------


async def test_login_with_basic_credentials_gives_no_token(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users = "basic", {"ann": "secret"}
    credentials = Credentials(username="ann", password="secret", server_address=registry.host)
    assert await authenticate(credentials, registries) == ("Login Succeeded", "")


async def test_login_at_a_token_service_gives_an_identity_token(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users, registry.identity_token = "bearer", {"ann": "secret"}, "keep-me"
    credentials = Credentials(username="ann", password="secret", server_address=f"http://{registry.host}/v1/")
    assert await authenticate(credentials, registries) == ("Login Succeeded", "keep-me")
    [token] = registry.asked("GET", "^/token$")
    assert token.query["offline_token"] == ["true"]
    assert token.query["client_id"] == ["docker"]


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        ("basic", r"login attempt to http://.*/v2/ failed with status: 401 Unauthorized"),
        ("bearer", r'Get "http://.*/v2/": unauthorized: incorrect username or password'),
    ],
)
async def test_a_failed_login_is_unauthorized(auth: str, text: str, registry: Any, registries: Registries) -> None:
    registry.auth, registry.users = auth, {"ann": "other"}
    with pytest.raises(Unauthorized, match=text):
        await authenticate(Credentials(username="ann", password="x", server_address=registry.host), registries)
    assert issubclass(LoginRefused, Unauthorized)


# --- redirects --------------------------------------------------------------------------------------------------------


async def test_credentials_do_not_follow_a_redirect_to_another_host(
    registry: Any, other: Any, registries: Registries
) -> None:
    registry.auth, registry.users, registry.redirect_blobs_to = "basic", {"ann": "secret"}, other.url
    blob = blob_of(registry, b"layer")
    other.blobs[blob.digest] = b"layer"
    assert await client_of(registries, registry, ANN).small_blob(blob, 100, "config") == b"layer"
    [seen] = other.seen
    assert "authorization" not in seen.headers


async def test_a_redirect_on_the_same_host_keeps_them(registry: Any, registries: Registries) -> None:
    registry.auth, registry.users, registry.redirect_blobs_to = "basic", {"ann": "secret"}, registry.url
    blob = blob_of(registry, b"layer")
    assert await client_of(registries, registry, ANN).small_blob(blob, 100, "config") == b"layer"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/y"])
async def test_redirects_lead_to_http_only(location: str, registry: Any, registries: Registries) -> None:
    registry.fail("/blobs/", 307, headers={"Location": location}, times=9)
    with pytest.raises(BadAnswer, match="redirect to"):
        await client_of(registries, registry).small_blob(blob_of(registry, b"x"), 100, "config")


async def test_redirects_in_circles_end(registry: Any, registries: Registries) -> None:
    registry.fail("/manifests/", 307, headers={"Location": f"{registry.url}/v2/team/app/manifests/latest"}, times=99)
    with pytest.raises(BadAnswer, match="stopped after 10 redirects"):
        await client_of(registries, registry).manifest("latest")


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_in_trouble_is_asked_again(status: int, registry: Any, registries: Registries) -> None:
    digest = put(registry)
    registry.fail("/manifests/", status, times=2)
    assert (await client_of(registries, registry).manifest("latest")).digest == digest


async def test_patience_ends(registry: Any, registries: Registries) -> None:
    registry.fail("/manifests/", 503, times=99)
    with pytest.raises(Unavailable, match="received unexpected HTTP status: 503 Service Unavailable"):
        await client_of(registries, registry).manifest("latest")
    assert len(registry.seen) == 3


async def test_too_many_requests_with_a_time_are_waited_for(registry: Any, registries: Registries) -> None:
    digest = put(registry)
    registry.fail("/manifests/", 429, headers={"Retry-After": "0"}, times=2)
    assert (await client_of(registries, registry).manifest("latest")).digest == digest


async def test_a_rate_limit_without_a_time_is_told_at_once(registry: Any, registries: Registries) -> None:
    registry.fail(
        "/manifests/", 429, body=b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}', times=9
    )
    with pytest.raises(Unavailable, match="toomanyrequests: pull rate limit"):
        await client_of(registries, registry).manifest("latest")
    assert len(registry.seen) == 1


async def test_a_registry_that_does_not_answer_times_out(
    registry: Any, make_registries: Callable[..., Registries]
) -> None:
    blob = blob_of(registry, b"x")
    registry.gated = {blob.digest}
    client = client_of(make_registries(read_timeout_s=0.1), registry)
    with pytest.raises(RegistryUnreachable, match="net/http: timeout awaiting response"):
        await client.small_blob(blob, 100, "config")


async def test_nobody_there_is_told_in_gos_words(registries: Registries) -> None:
    client = registries.client(Endpoint(url="http://127.0.0.1:1"), "x", None)
    with pytest.raises(RegistryUnreachable) as failure:
        await client.ping()
    assert str(failure.value) == 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'


async def test_an_unknown_host_is_told_in_gos_words(registries: Registries) -> None:
    client = registries.client(Endpoint(url="https://no-such-host.invalid"), "x", None)
    with pytest.raises(RegistryUnreachable, match=r"dial tcp: lookup no-such-host\.invalid: no such host"):
        await client.ping()


# --- documents --------------------------------------------------------------------------------------------------------


async def test_a_manifest_by_digest_must_match_it(registry: Any, registries: Registries) -> None:
    digest = put(registry)
    registry.manifests["team/app", digest] = b"other", media_types.OCI_MANIFEST
    with pytest.raises(VerificationFailed, match=f"manifest verification failed for digest {digest}"):
        await client_of(registries, registry).manifest(digest)


async def test_a_manifest_by_tag_must_match_what_the_registry_says(registry: Any, registries: Registries) -> None:
    told = sha256(b"other")
    registry.fail("/manifests/", 200, body=b"{}", headers={"Docker-Content-Digest": told})
    with pytest.raises(VerificationFailed, match=told):
        await client_of(registries, registry).manifest("latest")


async def test_a_manifest_has_a_size_limit(registry: Any, registries: Registries) -> None:
    put(registry, b" " * ((4 << 20) + 1))
    with pytest.raises(BadAnswer, match="more than the 4194304 allowed"):
        await client_of(registries, registry).manifest("latest")


@pytest.mark.parametrize("sent", [b"shor", b"longer than told", b"wrong"])
async def test_a_small_blob_must_match_size_and_digest(sent: bytes, registry: Any, registries: Registries) -> None:
    blob = blob_of(registry, b"right")
    registry.blobs[blob.digest] = sent
    with pytest.raises(VerificationFailed, match=f"image config verification failed for digest {blob.digest}"):
        await client_of(registries, registry).small_blob(blob, 100, "image config")


async def test_head_tells_what_a_tag_is(registry: Any, registries: Registries) -> None:
    digest = put(registry)
    found = await client_of(registries, registry).head_manifest("latest")
    assert found == Descriptor(media_type=media_types.OCI_MANIFEST, digest=digest, size=19)


async def test_a_registry_without_head_tells_nothing(registry: Any, registries: Registries) -> None:
    put(registry)
    registry.has_head = False
    assert await client_of(registries, registry).head_manifest("latest") is None


async def test_tags_are_read_page_by_page(registry: Any, registries: Registries) -> None:
    for tag in ("a", "b", "c", "d", "e"):
        registry.put_manifest("team/app", tag, b"{}", media_types.OCI_MANIFEST)
    assert await client_of(registries, registry).tags() == ["a", "b", "c", "d", "e"]


async def test_a_reference_is_resolved_without_a_store(registry: Any, registries: Registries) -> None:
    digest = put(registry)
    reference = parse_reference(f"{registry.host}/team/app")
    descriptor, data = await resolve(reference, registries=registries)
    assert descriptor == Descriptor(media_type=media_types.OCI_MANIFEST, digest=digest, size=len(data))
    with pytest.raises(
        NotFound, match=f"manifest for {registry.host}/team/app:x not found: manifest unknown: manifest"
    ):
        await resolve(parse_reference(f"{registry.host}/team/app:x"), registries=registries)


# --- uploads ----------------------------------------------------------------------------------------------------------


async def test_credentials_do_not_follow_an_upload_to_another_host(
    registry: Any, other: Any, registries: Registries, tmp_path: Path
) -> None:
    registry.auth, registry.users = "basic", {"ann": "secret"}
    registry.upload_base, other.sessions = other.url, registry.sessions
    await upload(client_of(registries, registry, ANN), tmp_path, b"blob")
    [seen] = other.asked("PUT", "/uploads/")
    assert "authorization" not in seen.headers
    assert other.blobs[sha256(b"blob")] == b"blob"


async def test_a_registry_behind_a_proxy_that_ends_tls_may_not_know_its_scheme(
    registry: Any, registries: Registries, certificates: Path, tmp_path: Path
) -> None:
    async with type(registry)().serve(server_context(certificates)) as secure:
        secure.upload_base = secure.url.replace("https://", "http://")
        await upload(client_of(registries, secure), tmp_path, b"blob")
        assert secure.blobs[sha256(b"blob")] == b"blob"


@pytest.mark.parametrize("status", [400, 403])
async def test_a_refused_upload_is_given_back(
    status: int, registry: Any, registries: Registries, tmp_path: Path
) -> None:
    registry.fail(
        "/uploads/u", status, method="PUT", body=b'{"errors":[{"code":"DENIED","message":"quota"}]}', times=99
    )
    with pytest.raises(Refused, match="denied: quota"):
        await upload(client_of(registries, registry), tmp_path, b"blob")
    assert registry.asked("DELETE", "/uploads/")
    assert registry.sessions == {}


async def upload(client: RegistryClient, folder: Path, data: bytes) -> None:
    path = folder / "blob"
    path.write_bytes(data)
    await Upload(client, path, Descriptor(media_type="x", digest=sha256(data), size=len(data)), lambda done: None).run()


async def test_a_new_policy_takes_effect_at_once(registry: Any, registries: Registries) -> None:
    digest = put(registry)
    registry.put_manifest("library/app", "latest", registry.manifests["team/app", digest][0], media_types.OCI_MANIFEST)
    registries.reconfigure(HostPolicy(mirrors=[registry.url], certs_dirs=(), hub_url="http://127.0.0.1:1"))
    descriptor, _ = await resolve(parse_reference("app"), registries=registries)
    assert descriptor.digest == digest


# --- endpoints and TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a server certificate for 127.0.0.1 and one for a client."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.cert")  # fmt: skip
    return folder


def server_context(certificates: Path, *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.cert", certificates / "server.key")
    if wants_client:
        context.load_verify_locations(certificates / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def certs_d(tmp_path: Path, certificates: Path, registry: Any, *names: str) -> str:
    folder = tmp_path / "certs.d" / registry.host
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes((certificates / name).read_bytes())
    return str(tmp_path / "certs.d")


async def test_a_certificate_of_an_unknown_authority_is_refused(
    registry: Any, registries: Registries, certificates: Path
) -> None:
    async with type(registry)().serve(server_context(certificates)) as secure:
        client = registries.client(Endpoint(url=secure.url, verify=True), "x", None)
        with pytest.raises(RegistryUnreachable, match="x509: certificate signed by unknown authority"):
            await client.ping()


async def test_certs_d_adds_an_authority_and_a_client_certificate(
    registry: Any, make_registries: Callable[..., Registries], certificates: Path, tmp_path: Path
) -> None:
    async with type(registry)().serve(server_context(certificates, wants_client=True)) as secure:
        folder = certs_d(tmp_path, certificates, secure, "ca.crt", "client.cert", "client.key")
        client = make_registries(certs_dirs=[folder]).client(Endpoint(url=secure.url, verify=True), "x", None)
        await client.ping()


async def test_half_a_client_certificate_is_an_error(
    registry: Any, make_registries: Callable[..., Registries], certificates: Path, tmp_path: Path
) -> None:
    async with type(registry)().serve(server_context(certificates)) as secure:
        folder = certs_d(tmp_path, certificates, secure, "ca.crt", "client.cert")
        client = make_registries(certs_dirs=[folder]).client(Endpoint(url=secure.url, verify=True), "x", None)
        with pytest.raises(InvalidArgument, match=r"missing key client\.key for client certificate client\.cert"):
            await client.ping()


async def test_an_insecure_registry_may_have_any_certificate(
    registry: Any, registries: Registries, certificates: Path
) -> None:
    async with type(registry)().serve(server_context(certificates)) as secure:
        put(secure)
        await resolve(parse_reference(f"{secure.host}/team/app"), registries=registries)


async def test_plain_http_is_not_tried_once_tls_was_spoken(
    registry: Any, registries: Registries, certificates: Path
) -> None:
    async with type(registry)().serve(server_context(certificates)) as secure:
        secure.fail("/manifests/", 500, times=99)
        with pytest.raises(Unavailable, match="500 Internal Server Error"):
            await resolve(parse_reference(f"{secure.host}/team/app"), registries=registries)


async def test_https_to_a_plain_server_is_told_in_gos_words(registry: Any, registries: Registries) -> None:
    client = registries.client(Endpoint(url=f"https://{registry.host}", verify=False), "x", None)
    with pytest.raises(RegistryUnreachable, match="http: server gave HTTP response to HTTPS client"):
        await client.ping()


async def test_a_password_does_not_go_to_a_token_service_without_tls(
    registry: Any, registries: Registries, certificates: Path
) -> None:
    async with type(registry)().serve(server_context(certificates)) as secure:
        secure.auth, secure.token_url = "bearer", f"{registry.url}/token"
        client = registries.client(Endpoint(url=secure.url, verify=False), "x", ANN)
        with pytest.raises(AuthenticationFailed, match="refusing to send credentials to a token service without TLS"):
            await client.ping()
        assert registry.seen == []
