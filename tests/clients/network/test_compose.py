"""Debian's docker-compose 1.29 brings up applications whose services find each other by name."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.calls import eventually
from support.daemon import Daemon

COMPOSE = shutil.which("docker-compose")
pytestmark = pytest.mark.skipif(COMPOSE is None, reason="needs docker-compose 1.29 (Debian's docker-compose)")

SERVICES = """
services:
  web:
    image: busybox
    command: sh -c "echo served by $$HOSTNAME > /data/index.html; exec httpd -f -p 80 -h /data"
    volumes: [data:/data]
    stop_grace_period: 0s
    networks:
      front: {aliases: [www]}
  client:
    image: kept
    command: sh -c "echo client is up; exec sleep 600"
    depends_on: [web]
    stop_grace_period: 0s
    networks: [front]
volumes: {data: {}}
networks:
  front: {driver: bridge, ipam: {config: [{subnet: 10.214.30.0/24}]}}
"""


class Project:
    """A compose file in a folder of its own, and the commands on it."""

    def __init__(self, engine: Daemon, folder: Path, version: str) -> None:
        self.engine = engine
        self.folder = folder
        self.file = folder / "docker-compose.yml"
        self.file.write_text(f'version: "{version}"\n{SERVICES}')
        engine.docker("create", "--name", "base", "busybox", "true")
        engine.docker("commit", "--change", "VOLUME /keep", "base", "kept")
        engine.docker("rm", "base")

    def __call__(self, *args: str) -> str:
        done = subprocess.run(
            [str(COMPOSE), "--no-ansi", "-p", "shop", *args],
            cwd=self.folder,
            env=self.engine.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def fetched(self, url: str) -> str:
        """What the client gets from a service, which may have begun to run a moment ago and not listen yet."""
        return self("exec", "-T", "client", "sh", "-c", f"until wget -q -O- {url}; do sleep 0.1; done")


@pytest.mark.parametrize("version", ["2.4", "3.8"])
def test_an_application_comes_up_scales_and_goes_without_a_trace(
    own_engine: Daemon, tmp_path: Path, version: str
) -> None:
    compose = Project(own_engine, tmp_path, version)
    try:
        compose("up", "-d")
        listed = compose("ps")
        assert re.search(r"shop_web_1 .* Up", listed)
        assert re.search(r"shop_client_1 .* Up", listed)
        eventually(lambda: "client is up" in compose("logs", "client"))
        for name in ("web", "www", "shop_web_1"):
            assert "served by" in compose.fetched(f"http://{name}/")
        compose("up", "-d", "--scale", "web=3")
        found = compose("exec", "-T", "client", "nslookup", "-type=a", "web").partition("\n\n")[2]
        assert len(set(re.findall(r"10\.214\.30\.\d+", found))) == 3
        compose("restart", "web")
        assert "served by" in compose.fetched("http://web/")
        before = own_engine.json("GET", "/containers/json")
        compose("up", "-d", "--scale", "web=3")
        after = own_engine.json("GET", "/containers/json")
        assert sorted(each["Id"] for each in before) == sorted(each["Id"] for each in after)
        # A service that has changed is made anew, with what its image's volumes held.
        compose("exec", "-T", "client", "touch", "/keep/this")
        compose.file.write_text(compose.file.read_text().replace("client is up", "client is back"))
        compose("up", "-d", "--scale", "web=3")
        eventually(lambda: "client is back" in compose("logs", "client"))
        assert compose("exec", "-T", "client", "ls", "/keep") == "this\n"
    finally:
        compose("down", "-v")
    own_engine.docker("volume", "prune", "-f")  # what went over to a successor isn't the successor's to remove
    assert own_engine.json("GET", "/containers/json?all=1") == []
    assert [each["Name"] for each in own_engine.json("GET", "/networks")] == ["bridge", "host", "none"]
    assert not own_engine.json("GET", "/volumes")["Volumes"]
