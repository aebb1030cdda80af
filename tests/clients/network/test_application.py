"""An application of real software: nginx before a Python web service, which counts in Redis and keeps in PostgreSQL.

Brought up by Debian's docker-compose 1.29, with files of the versions 2 and 3.
"""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from support import debian, images
from support.calls import eventually
from support.daemon import Daemon, Registry
from support.ports import free_port

COMPOSE = shutil.which("docker-compose")
pytestmark = pytest.mark.skipif(COMPOSE is None, reason="needs docker-compose 1.29 (Debian's docker-compose)")

NGINX = b"""
daemon off;
pid /tmp/nginx.pid;
user root;
error_log stderr;
events {}
http {
  access_log /dev/stdout;
  server { listen 80; location / { proxy_pass http://web:8000; } }
}
"""

WEB = b"""
import http.server, json, os, socket, time
import psycopg2

def patiently(connect):
    for _ in range(600):
        try:
            return connect()
        except OSError as error:
            failure = error
        except psycopg2.OperationalError as error:
            failure = error
        time.sleep(0.05)
    raise failure

def count():
    with patiently(lambda: socket.create_connection(("cache", 6379))) as redis:
        redis.sendall(b"INCR visits\\r\\n")
        return int(redis.recv(100)[1:])

def keep(path):
    database = patiently(lambda: psycopg2.connect(host="db", user="postgres", dbname="postgres"))
    with database, database.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS seen (path text)")
        cursor.execute("INSERT INTO seen VALUES (%s)", (path,))
        cursor.execute("SELECT path FROM seen")
        found = [row[0] for row in cursor.fetchall()]
    database.close()
    return found

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"by": os.uname().nodename, "visits": count(), "seen": keep(self.path)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

count(), keep("/begun")
print("ready", flush=True)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""

DATABASE = b"""#!/bin/sh -e
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s /data/PG_VERSION ]; then
  $bin/initdb --no-sync --auth=trust --no-locale -E UTF8 -D /data > /dev/null
  echo "host all all all trust" >> /data/pg_hba.conf
fi
exec $bin/postgres -D /data -c listen_addresses=* -c fsync=off -c unix_socket_directories=/tmp
"""

SERVICES = """
services:
  proxy:
    image: software
    command: nginx -c /app/nginx.conf
    ports: ["127.0.0.1:PORT:80"]
    depends_on: [web]
    networks: [front]
    stop_grace_period: 0s
  web:
    image: software
    command: python3 /app/web.py
    networks: [front, back]
    stop_grace_period: 0s
  cache:
    image: software
    command: redis-server --bind 0.0.0.0 --protected-mode no --save ""
    networks: [back]
    stop_grace_period: 0s
  db:
    image: software
    user: postgres
    command: sh /app/database
    volumes: [tables:/data]
    networks: [back]
    stop_signal: SIGINT
volumes: {tables: {labels: {of: application}}}
networks:
  front: {}
  back: {internal: true}
"""


@pytest.fixture(scope="session")
def software(registry: Registry) -> None:
    """An image `software` in the registry: the programs, and what the application is made of."""
    with tempfile.TemporaryDirectory(prefix="scow-software-", dir="/var/tmp") as folder:
        try:
            root = debian.root_layer(Path(folder))
        except debian.NoPackages as reason:
            pytest.skip(str(reason))
    files = {"app/": b"", "app/nginx.conf": NGINX, "app/web.py": WEB}
    layers = [root, images.tar({**files, "app/database": DATABASE})]
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    images.push(registry.address, "library/software", images.build(layers, {"Env": [path]}))


class Project:
    """The application's file, of a version, and the commands on it."""

    def __init__(self, engine: Daemon, folder: Path, version: str) -> None:
        self.engine = engine
        self.folder = folder
        # Nobody holds the port while the engine is dead: it is not one that engines beside it would choose.
        services = SERVICES.replace("PORT", str(free_port()))
        (folder / "docker-compose.yml").write_text(f'version: "{version}"\n{services}')

    def __call__(self, *args: str) -> str:
        done = subprocess.run(
            [str(COMPOSE), "--no-ansi", "-p", f"app{self.folder.name[-4:].strip('_').lower()}", *args],
            cwd=self.folder,
            env=self.engine.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}\n{self.engine.log[-2000:]}"
        return done.stdout

    def visit(self, path: str) -> dict[str, object]:
        """What the application answers from outside, through its published port."""
        address = self("port", "proxy", "80").strip()
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as reply:
                    found: dict[str, object] = json.load(reply)
                return found
            except HTTPError:
                raise
            except (ConnectionError, URLError):  # the proxy may have been started a moment ago, and not listen yet
                assert time.monotonic() < end
                time.sleep(0.05)

    def wait_ready(self) -> None:
        """Return when all of the web service's members have said that they are ready."""
        for id in self("ps", "-q", "web").split():
            following = subprocess.Popen(
                ["docker", "logs", "-f", id], env=self.engine.environment(), stdout=subprocess.PIPE, text=True
            )
            assert following.stdout is not None
            with following.stdout:
                assert any("ready" in line for line in following.stdout)
                following.kill()
            following.wait()


@pytest.fixture
def app(own_engine: Daemon, software: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    """The application, by a file of the version that the test is given; torn down, it leaves nothing."""
    own_engine.docker("pull", "-q", "software")
    project = Project(own_engine, tmp_path, request.param)
    try:
        project("up", "-d")
        project.wait_ready()
        yield project
    finally:
        project("down", "-v", "-t", "0")
    assert own_engine.json("GET", "/containers/json?all=1") == []
    assert [each["Name"] for each in own_engine.json("GET", "/networks")] == ["bridge", "host", "none"]
    assert not own_engine.json("GET", "/volumes")["Volumes"]


@pytest.mark.parametrize("app", ["2.4"], indirect=True)
def test_software_by_a_file_of_version_2(app: Project) -> None:
    assert app.visit("/one")["seen"] == ["/begun", "/one"]
    eventually(lambda: "GET /one" in app("logs", "proxy"))


@pytest.mark.parametrize("app", ["3.8"], indirect=True)
def test_an_application_of_real_software(app: Project, own_engine: Daemon) -> None:
    first = app.visit("/one")
    assert app("exec", "-T", "cache", "redis-cli", "get", "visits").strip() == str(first["visits"])
    assert app("ps").count(" Up ") == 4

    app("kill", "db")
    app("start", "db")  # what it was told is kept in its volume
    assert app.visit("/two")["seen"] == ["/begun", "/one", "/two"]

    own_engine.kill()
    own_engine.start()
    assert "/two" in str(app.visit("/three")["seen"])

    app("up", "-d", "--scale", "web=3")
    app.wait_ready()
    app("restart", "-t", "0", "proxy")  # nginx asks for names at its start only
    assert len({app.visit("/again")["by"] for _ in range(12)}) > 1

    app("down", "-t", "0")  # without -v: what is in the volume outlives the containers
    app("up", "-d")
    app.wait_ready()
    assert "/three" in str(app.visit("/after")["seen"])
