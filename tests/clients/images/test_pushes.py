"""Pushes, credentials, TLS, mirrors and proxies, by real clients through real engines."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scow.oci import media_types
from support.daemon import Daemon, Registry, folder
from support.images import tar

from . import forms
from .conftest import PASSWORD, USER, DebianRegistry, fetch, inspect, needs
from .test_pulls import AnyRegistry, fresh, unique

ACCEPT = ", ".join((media_types.OCI_INDEX, media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST))


def manifest_at(address: str, name: str, tag: str = "latest", user: str = "") -> tuple[bytes, str]:
    return fetch(f"http://{address}/v2/{name}/manifests/{tag}", accept=ACCEPT, user=user)


@pytest.mark.parametrize("client", ["docker", "scow"])
@pytest.mark.parametrize("form", [("oci", "gzip"), ("oci", "zstd"), ("oci", "none"), ("docker", "gzip")])
def test_what_was_pulled_is_pushed_back_bit_for_bit(
    engine: Daemon, registry: Registry, debian_registry: DebianRegistry, client: str, form: tuple[str, str]
) -> None:
    name = fresh()
    run = getattr(engine, client)
    image = forms.make([unique(), unique()], *form)
    digest = forms.push(registry.address, name, "latest", image)
    run("pull", f"{registry.address}/{name}")
    run("tag", f"{registry.address}/{name}", f"{debian_registry.address}/{name}:copy")
    said = run("push", f"{debian_registry.address}/{name}:copy").stdout
    assert f"copy: digest: {digest} size: {len(image.manifest.data)}" in said
    assert manifest_at(debian_registry.address, name, "copy") == (image.manifest.data, digest)
    assert digest in str(inspect(engine, f"{debian_registry.address}/{name}:copy")["RepoDigests"])


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_another_repository_of_the_registry_gets_its_layers_by_mounting(
    engine: Daemon, either_registry: AnyRegistry, client: str
) -> None:
    source, target = fresh(), fresh("other/app")
    run = getattr(engine, client)
    big = tar({"f": os.urandom(300_000)})
    digest = forms.push(either_registry.address, source, "latest", forms.make([big]))
    run("pull", f"{either_registry.address}/{source}")
    run("tag", f"{either_registry.address}/{source}", f"{either_registry.address}/{target}")
    said = run("push", f"{either_registry.address}/{target}").stdout
    assert f"Mounted from {source}" in said
    assert manifest_at(either_registry.address, target)[1] == digest
    again = run("push", f"{either_registry.address}/{target}").stdout
    assert "Layer already exists" in again
    assert f"digest: {digest}" in again


@pytest.mark.parametrize("program", ["skopeo", "podman"])
def test_what_others_copied_is_pulled_and_what_we_pushed_is_copied(
    engine: Daemon, registry: Registry, tmp_path: Path, program: str
) -> None:
    needs("skopeo")
    needs(program)
    name, word = fresh(), uuid.uuid4().hex
    forms.push(registry.address, name, "latest", forms.make(forms.box({"word": word.encode()})))
    ref = f"{registry.address}/{name}"
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    kinds = [f"dir:{tmp_path}/dir", f"oci:{tmp_path}/oci:latest"] if program == "skopeo" else []
    for number, middle in enumerate(kinds):
        subprocess.run(["skopeo", "copy", "--src-tls-verify=false", f"docker://{ref}", middle], check=True, timeout=120)
        back = ["skopeo", "copy", "--dest-tls-verify=false", middle, f"docker://{ref}:back{number}"]
        subprocess.run(back, check=True, timeout=120)
        assert engine.docker("run", "--rm", f"{ref}:back{number}", "cat", "/word").stdout == word
    if program == "podman":
        with folder() as short:  # podman takes 50 characters at most
            podman = ["podman", "--root", f"{short}/root", "--runroot", f"{short}/run", "--storage-driver", "vfs"]
            subprocess.run([*podman, "pull", "-q", "--tls-verify=false", ref], check=True, timeout=120)
            push = [*podman, "push", "-q", "--tls-verify=false", ref, f"{ref}:podman"]
            subprocess.run(push, check=True, timeout=120)
        assert engine.docker("run", "--rm", f"{ref}:podman", "cat", "/word").stdout == word
    engine.docker("pull", ref)
    engine.docker("tag", ref, f"{ref}:ours")
    engine.docker("push", f"{ref}:ours")
    subprocess.run(["skopeo", "copy", *plain[:1], f"docker://{ref}:ours", f"dir:{tmp_path}/ours"], check=True)


@pytest.fixture(params=["scow", "distribution"])
def private_registry(request: pytest.FixtureRequest, tmp_path: Path, htpasswd: Path) -> Iterator[AnyRegistry]:
    """A registry that asks for a name and password."""
    server: AnyRegistry
    if request.param == "scow":
        with_users = type("Private", (Registry,), {})
        server = start_ours(tmp_path / "registry", "--htpasswd", str(htpasswd), kind=with_users)
    else:
        needs("docker-registry")
        server = DebianRegistry(
            tmp_path / "registry", config=f"auth: {{htpasswd: {{realm: harbour, path: {htpasswd}}}}}"
        )
    yield server
    server.stop()


def start_ours(path: Path, *flags: str, listen: str = "127.0.0.1:0", kind: type[Registry] = Registry) -> Registry:
    """`scow registry serve` with further flags."""
    path.mkdir()
    ready = path / "ready"
    server = kind.__new__(kind)
    server.folder = path
    server._log = (path / "log").open("wb")
    server.process = subprocess.Popen(
        [
            *(sys.executable, "-m", "scow.registry", "serve", "--listen", listen, "--storage", str(path / "storage")),
            *("--ready-file", str(ready), *flags),
        ],
        stdout=server._log,
        stderr=server._log,
    )
    for _ in range(3000):
        if ready.exists() and ready.read_text().strip():
            break
        assert server.process.poll() is None, (path / "log").read_text()
        threading.Event().wait(0.02)
    server.address = ready.read_text().strip().partition("://")[2].rstrip("/")
    return server


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_a_private_registry_by_login(
    engine: Daemon, registry: Registry, private_registry: AnyRegistry, client: str
) -> None:
    run = getattr(engine, client)
    name = fresh()
    forms.push(registry.address, name, "latest", forms.make([unique()]))
    run("pull", f"{registry.address}/{name}")
    ref = f"{private_registry.address}/{name}"
    run("tag", f"{registry.address}/{name}", ref)
    engine.docker("logout", private_registry.address, check=False)
    refused = run("push", ref, check=False)
    assert refused.returncode == 1
    assert any(word in refused.stderr for word in ("no basic auth credentials", "denied", "unauthorized"))
    wrong = run("login", "-u", USER, "--password-stdin", private_registry.address, input=b"wrong", check=False)
    assert wrong.returncode == 1
    assert "unauthorized" in wrong.stderr.lower()
    said = run("login", "-u", USER, "--password-stdin", private_registry.address, input=PASSWORD.encode())
    assert "Login Succeeded" in said.stdout
    assert "digest: sha256:" in run("push", ref).stdout
    engine.docker("rmi", ref)
    run("pull", ref)
    assert inspect(engine, ref)["RepoTags"]
    engine.docker("logout", private_registry.address)
    refused = run("pull", ref, check=False)
    assert refused.returncode == 1
    assert any(word in refused.stderr for word in ("no basic auth credentials", "denied", "unauthorized"))


@pytest.fixture(params=["scow", "distribution"])
def tls_registry(
    request: pytest.FixtureRequest, tmp_path: Path, far_address: str, certificate: tuple[Path, Path]
) -> Iterator[AnyRegistry]:
    cert, key = certificate
    server: AnyRegistry
    if request.param == "scow":
        flags = ["--tls-cert", str(cert), "--tls-key", str(key)]
        server = start_ours(tmp_path / "tls", *flags, listen=f"{far_address}:0")
    else:
        needs("docker-registry")
        server = DebianRegistry(tmp_path / "tls", far_address, config=f"  tls: {{certificate: {cert}, key: {key}}}")
    yield server
    server.stop()


@pytest.fixture
def filled(engine: Daemon, registry: Registry) -> Callable[[str], str]:
    """Gives a new image the name that it is to be pushed by."""

    def fill(address: str) -> str:
        name = fresh()
        forms.push(registry.address, name, "latest", forms.make([unique()]))
        engine.docker("pull", "-q", f"{registry.address}/{name}")
        engine.docker("tag", f"{registry.address}/{name}", f"{address}/{name}")
        return f"{address}/{name}"

    return fill


def test_tls_is_trusted_by_certs_d_only(
    engine: Daemon, tls_registry: AnyRegistry, certificate: tuple[Path, Path], filled: Callable[[str], str]
) -> None:
    ref = filled(tls_registry.address)
    refused = engine.docker("push", ref, check=False)
    assert refused.returncode == 1
    assert "x509: certificate signed by unknown authority" in refused.stderr
    home = Path("/etc/scow/certs.d") / tls_registry.address
    home.mkdir(parents=True)
    try:
        (home / "ca.crt").write_bytes(certificate[0].read_bytes())
        engine.docker("push", ref)
        engine.docker("rmi", ref)
        engine.scow("pull", ref)
    finally:
        (home / "ca.crt").unlink()
        os.removedirs(home)


def test_insecure_registries_by_flag(
    make_engine: Callable[..., Daemon], registry: Registry, tls_registry: AnyRegistry, far_address: str, tmp_path: Path
) -> None:
    plain = start_ours(tmp_path / "plain", listen=f"{far_address}:0")
    try:
        name = fresh()
        forms.push(plain.address, name, "latest", forms.make([unique()]))
        strict = make_engine()
        refused = strict.docker("pull", f"{plain.address}/{name}", check=False)
        assert "server gave HTTP response to HTTPS client" in refused.stderr
        strict.stop()
        lax = make_engine("--insecure-registry", plain.address, "--insecure-registry", f"{far_address}/32")
        lax.docker("pull", f"{plain.address}/{name}")
        lax.docker("tag", f"{plain.address}/{name}", f"{tls_registry.address}/{name}")
        lax.docker("push", f"{tls_registry.address}/{name}")
    finally:
        plain.stop()


def test_a_mirror_that_fails_is_passed_over(make_engine: Callable[..., Daemon], registry: Registry) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        engine = make_engine("--registry-mirror", dead, "--registry-mirror", f"http://{registry.address}")
        assert "Status: Downloaded newer image for hello-world:latest" in engine.docker("pull", "hello-world").stdout


class Proxy:
    """A small HTTP proxy: CONNECT, and plain requests to absolute URLs; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(65536)
            if not data:
                client.close()
                return
            head += data
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self.asked.append(f"{method} {target}")
        address = target if method == "CONNECT" else target.split("/")[2]
        host, _, port = address.partition(":")
        with client, socket.create_connection((host, int(port or 80))) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(head)
            other = {client: server, server: client}
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    try:
                        data = ready.recv(1 << 16)
                        if not data:
                            return
                        other[ready].sendall(data)
                    except OSError:
                        return


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


def test_proxies_of_the_engines_environment_are_used(
    make_engine: Callable[..., Daemon], proxy: Proxy, tls_registry: AnyRegistry, far_address: str, tmp_path: Path
) -> None:
    plain = start_ours(tmp_path / "plain", listen=f"{far_address}:0")
    try:
        name = fresh()
        digest = forms.push(plain.address, name, "latest", forms.make([unique()]))
        flags = ["--insecure-registry", plain.address, "--insecure-registry", tls_registry.address]
        engine = make_engine(*flags, HTTP_PROXY=proxy.url, HTTPS_PROXY=proxy.url, NO_PROXY="")
        assert f"Digest: {digest}" in engine.docker("pull", f"{plain.address}/{name}").stdout
        assert any(asked.startswith(f"GET http://{plain.address}/v2/{name}/") for asked in proxy.asked)
        engine.docker("tag", f"{plain.address}/{name}", f"{tls_registry.address}/{name}")
        engine.docker("push", f"{tls_registry.address}/{name}")
        assert f"CONNECT {tls_registry.address}" in proxy.asked
        assert json.loads(engine.docker("info", "--format", "{{json .HTTPProxy}}").stdout) == proxy.url
        engine.stop()
        proxy.asked.clear()
        bypassing = make_engine(*flags, HTTP_PROXY=proxy.url, HTTPS_PROXY=proxy.url, NO_PROXY=far_address)
        bypassing.docker("pull", f"{plain.address}/{name}")
        assert proxy.asked == []
    finally:
        plain.stop()
