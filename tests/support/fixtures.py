"""Fixtures of tests against a real engine: one registry and one engine a session, cleaned after each test."""

import gc
import warnings
from collections.abc import Iterator

import docker
import pytest

from scow.samples.__main__ import push as push_samples
from support import images
from support.daemon import Daemon, Registry, folder
from support.machine import traces


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry that holds library/hello-world and library/busybox."""
    with folder() as path:
        server = Registry(path)
        try:
            push_samples(server.address)
            images.push(server.address, "library/busybox", images.busybox())
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def shared_engine(registry: Registry) -> Iterator[Daemon]:
    """One engine for all tests that don't restart it; at its end nothing of it may be left on the machine."""
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}").start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon
            daemon.clean()
        finally:
            daemon.stop()
        left = traces(path)
        assert not left, f"the engine left behind: {left}"


@pytest.fixture
def engine(shared_engine: Daemon) -> Iterator[Daemon]:
    """The shared engine, without containers at the end of the test."""
    yield shared_engine
    shared_engine.clean()


@pytest.fixture
def own_engine(registry: Registry) -> Iterator[Daemon]:
    """An engine of the test's own, to be killed and started again; with busybox pulled."""
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}").start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon
            daemon.go_on()
            if daemon.process is None or daemon.process.poll() is not None:
                daemon.start()
            daemon.clean()
        finally:
            daemon.stop()
        left = traces(path)
        assert not left, f"the engine left behind: {left}"


@pytest.fixture
def docker_py(engine: Daemon) -> Iterator[docker.DockerClient]:
    """docker-py, connected."""
    client = docker.DockerClient(base_url=engine.host)
    yield client
    client.close()
    with warnings.catch_warnings():
        # docker-py leaves the sockets of its streams open; tests that use them have the mark that ignores it as well.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
