"""Archives over TLS, where files can't go out by sendfile."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.daemon import Daemon, Registry
from support.images import tar
from support.ports import free_port

from . import forms
from .conftest import needs
from .test_pulls import fresh


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A certificate for loopback, which is its own authority, and its key."""
    needs("openssl")
    subject = ["-subj", "/CN=engine", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    where = ["-days", "2", "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*command, *where, *subject], check=True, capture_output=True)
    return tmp_path


def test_archives_go_out_and_in_by_tls(registry: Registry, make_engine: Callable[..., Daemon], files: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    key, certificate = str(files / "key.pem"), str(files / "cert.pem")
    flags = ("--tlsverify", "--tlscacert", certificate, "--tlscert", certificate, "--tlskey", key)
    engine = make_engine("--host", address, *flags)
    ref = f"{registry.address}/{fresh()}"
    noise = forms.make([tar({"noise": bytes(range(256)) * 20_000})], compression="none")
    forms.push(registry.address, ref.partition("/")[2], "latest", noise)
    engine.docker("pull", "-q", ref)
    plain = files / "plain.tar"
    engine.docker("save", "-o", str(plain), ref)
    for run in (engine.docker, engine.scow):
        secret = files / f"{run.__name__}.tar"
        run("-H", address, *flags, "save", "-o", str(secret), ref)
        assert secret.read_bytes() == plain.read_bytes()
        assert "Loaded image: " in run("-H", address, *flags, "load", "-i", str(secret)).stdout
