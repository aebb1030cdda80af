"""A server over the double, and certificates for TLS."""

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.api.client import Server


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """End a test that waits for what never comes: SIGALRM raises in the loop, and the trace shows where it stood."""

    def late(number: int, stack: object) -> None:
        raise TimeoutError("this test takes longer than a minute")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        return (yield)
    finally:
        signal.alarm(0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path / "s")
    await server.start()
    yield server
    await server.stop()


@dataclass(frozen=True)
class Certificates:
    """A CA, a server's and a client's certificate."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / f"{name.replace('_', '.')}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        (folder / "extension").write_text(extension + "\n")
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "extension"),
        )
    return Certificates(folder)
