"""What is measured. A case prepares an engine, takes samples in turn with the other engines, and tidies up."""

import abc
import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

from bench import images
from bench.engines import Engine, Failed
from bench.http import Api, drain, hijack

API = "/v1.41"
PARALLEL = 8
LISTED = 200
RUNNING = 10
IDLE_AFTER_S = 25.0  # long enough for workers to have gone
SLEEP = ["sleep", "1000"]
STEPS = 20
COPIED = 10_000
SERVED = 256 << 20
SERVES_AFTER_S = 10.0


class Size(NamedTuple):
    """How much is done for one sample."""

    log: int  # bytes of output
    piped: int
    started: int  # containers


QUICK = Size(log=64 << 20, piped=128 << 20, started=24)
FULL = Size(log=256 << 20, piped=512 << 20, started=64)


class Case(abc.ABC):
    """One measurement; subclasses say how. `state` belongs to one engine, from `prepare` to `tidy`."""

    name: str
    title: str
    unit = "s"
    rounds = (7, 15)  # quick, full
    full_only = False

    def __init__(self, size: Size) -> None:
        self.size = size

    def can(self, engine: Engine) -> bool:
        """Whether the engine has what this measures."""
        return True

    def prepare(self, engine: Engine) -> Any:
        return None

    @abc.abstractmethod
    def sample(self, engine: Engine, state: Any) -> float:
        """One measurement, in `unit`."""

    def tidy(self, engine: Engine, state: Any) -> None:
        engine.clean()


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _client(engine: Engine, command: list[str]) -> float:
    def run() -> None:
        done = subprocess.run(command, env=engine.environment(), capture_output=True, check=False)
        if done.returncode:
            raise Failed(f"{engine.name}: {' '.join(command[:4])}: {done.stderr.decode(errors='replace')}")

    return timed(run)


class RunDocker(Case):
    name, title = "run", "docker run --rm busybox true"

    def sample(self, engine: Engine, state: Any) -> float:
        return _client(engine, ["docker", "run", "--rm", engine.image("busybox"), "true"])


class RunOwn(Case):
    name, title = "run-own", "the same, the engine's own client"

    def sample(self, engine: Engine, state: Any) -> float:
        return _client(engine, engine.client("run", "--rm", engine.image("busybox"), "true"))


class RunApi(Case):
    name, title = "run-api", "create, start, wait, delete by the API"
    rounds = (15, 40)
    host_config: ClassVar[dict[str, Any]] = {}

    def sample(self, engine: Engine, state: Any) -> float:
        def run() -> None:
            id = engine.api.create(engine.image("busybox"), ["true"], HostConfig=self.host_config)
            engine.api.start(id)
            engine.api.wait(id)
            engine.api.remove(id)

        return timed(run)


class RunPublished(RunApi):
    name, title = "run-port", "the same with a published port"
    host_config: ClassVar[dict[str, Any]] = {"PortBindings": {"80/tcp": [{"HostPort": "28080"}]}}


class Start(Case):
    name, title = "start", "start alone"
    rounds = (10, 30)

    def sample(self, engine: Engine, state: Any) -> float:
        id = engine.api.create(engine.image("busybox"), SLEEP)
        try:
            return timed(lambda: engine.api.start(id))
        finally:
            engine.api.remove(id)


class Exec(Case):
    name, title = "exec", "exec by the API, to the end of its output"
    rounds = (15, 40)

    def prepare(self, engine: Engine) -> Any:
        id = engine.api.create(engine.image("busybox"), SLEEP)
        engine.api.start(id)
        return id

    def sample(self, engine: Engine, state: Any) -> float:
        def run() -> None:
            asked = {"Cmd": ["echo", "hello"], "AttachStdout": True, "AttachStderr": True}
            exec_id = engine.api.json("POST", f"{API}/containers/{state}/exec", asked)["Id"]
            connection, _ = hijack(engine.socket, f"{API}/exec/{exec_id}/start", b'{"Detach":false,"Tty":false}')
            drain(connection)
            connection.close()

        return timed(run)


class Parallel(Case):
    name, title, unit = "parallel", f"containers started, {PARALLEL} at a time", "/s"
    rounds = (3, 5)

    def sample(self, engine: Engine, state: Any) -> float:
        local = threading.local()

        def start(_: int) -> None:
            if not hasattr(local, "api"):
                local.api = Api(engine.socket)
            local.api.start(local.api.create(engine.image("busybox"), SLEEP))

        with ThreadPoolExecutor(PARALLEL) as pool:
            seconds = timed(lambda: list(pool.map(start, range(self.size.started))))
        engine.clean()
        return self.size.started / seconds


class Pull(Case):
    rounds = (3, 5)

    def sample(self, engine: Engine, state: Any) -> float:
        self._forget(engine)
        return timed(lambda: engine.pull(self._image))

    def tidy(self, engine: Engine, state: Any) -> None:
        self._forget(engine)

    def _forget(self, engine: Engine) -> None:
        if any(engine.image(self._image) in tag for tag in _tags(engine)):
            engine.api.call("DELETE", f"{API}/images/{engine.image(self._image)}:latest?force=1")
        _settle()

    @property
    def _image(self) -> str:
        return self.name.removeprefix("pull-")


class PullBig(Pull):
    name, title = "pull-big", "pull one layer of 160 MB"


class PullSmall(Pull):
    name, title = "pull-small", "pull 20,000 files, 500 MB, 5 layers"


class PullTiny(Pull):
    name, title = "pull-tiny", "pull 40 tiny layers"


class Save(Case):
    name, title = "save", "save the image of 500 MB"
    rounds = (3, 5)

    def prepare(self, engine: Engine) -> Any:
        engine.pull("small")

    def sample(self, engine: Engine, state: Any) -> float:
        _settle()
        return timed(lambda: engine.api.stream("GET", f"{API}/images/{engine.image('small')}/get"))


class Load(Case):
    """Each engine loads the same archive, of docker's form with plain tars."""

    name, title = "load", "load the same"
    rounds = (3, 5)

    def prepare(self, engine: Engine) -> Any:
        archive = engine.folder / "load.tar"
        images.archive("small", "bench/load:latest", archive)
        return archive

    def sample(self, engine: Engine, state: Any) -> float:
        if "bench/load:latest" in [tag.removeprefix("docker.io/") for tag in _tags(engine)]:
            engine.api.call("DELETE", f"{API}/images/bench/load:latest?force=1")
        _settle()
        with state.open("rb") as file:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(state.stat().st_size)}
            return timed(lambda: engine.api.send_bytes("POST", f"{API}/images/load?quiet=1", file, headers))

    def tidy(self, engine: Engine, state: Any) -> None:
        state.unlink()


class PushFresh(Case):
    """What is pushed is new to the registry, and nobody has compressed it yet."""

    name, title = "push-fresh", "push a fresh layer of 160 MB"
    rounds = (3, 5)

    def sample(self, engine: Engine, state: Any) -> float:
        name = engine.image(f"fresh-{secrets.token_hex(6)}")
        tar = images.fresh()
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(len(tar))}
        query = f"fromSrc=-&repo={name}&tag=latest"
        engine.api.send_bytes("POST", f"{API}/images/create?{query}", tar, headers)
        _settle()
        path = f"{API}/images/{name}/push?tag=latest"
        answers: list[bytes] = []
        seconds = timed(
            lambda: answers.append(engine.api.send_bytes("POST", path, headers={"X-Registry-Auth": "e30="}))
        )
        if b'"error' in answers[0]:
            raise Failed(f"{engine.name} cannot push: {answers[0][-400:].decode(errors='replace')}")
        engine.api.call("DELETE", f"{API}/images/{name}:latest?force=1")
        return seconds


class WriteLog(Case):
    name, title, unit = "log-write", "a container's log lines of 100 bytes, written", "B/s"
    rounds = (3, 5)

    def sample(self, engine: Engine, state: Any) -> float:
        id = _logging(engine, self.size.log)
        _settle()

        def run() -> None:
            engine.api.start(id)
            engine.api.wait(id)

        seconds = timed(run)
        engine.api.remove(id)
        return self.size.log / seconds


class ReadLog(Case):
    name, title, unit = "log-read", "the same, read back by the API", "B/s"
    rounds = (3, 5)

    def prepare(self, engine: Engine) -> Any:
        id = _logging(engine, self.size.log)
        engine.api.start(id)
        engine.api.wait(id)
        return id

    def sample(self, engine: Engine, state: Any) -> float:
        begun = time.perf_counter()
        size = engine.api.stream("GET", f"{API}/containers/{state}/logs?stdout=1&stderr=1")
        if size < self.size.log:
            raise Failed(f"{engine.name}: {size} bytes of a log of {self.size.log}")
        return self.size.log / (time.perf_counter() - begun)


class Attach(Case):
    name, title, unit = "attach", "attach, piping through cat", "B/s"
    rounds = (3, 5)

    def sample(self, engine: Engine, state: Any) -> float:
        more = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
        id = engine.api.create(engine.image("busybox"), ["cat"], HostConfig={"LogConfig": {"Type": "none"}}, **more)
        target = f"{API}/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        connection, rest = hijack(engine.socket, target)
        engine.api.start(id)
        writer = threading.Thread(target=_feed, args=(connection, self.size.piped), daemon=True)
        begun = time.perf_counter()
        writer.start()
        size = drain(connection) + len(rest)
        seconds = time.perf_counter() - begun
        writer.join()
        connection.close()
        engine.api.remove(id)
        if size < self.size.piped:
            raise Failed(f"{engine.name}: {size} bytes came back of {self.size.piped}")
        return self.size.piped / seconds


class Build(Case):
    """Without docker's client, whose builds go by BuildKit's protocol where an engine has it."""

    rounds = (7, 15)
    files = 0
    steps = ("RUN echo hello > /made",)
    cached = False

    def prepare(self, engine: Engine) -> Any:
        instructions = "\n".join((f"FROM {engine.image('busybox')}:latest", *self.steps))
        tar = images.context(f"{instructions}\n", self.files)
        if self.cached:
            self._build(engine, tar)
        return tar

    def sample(self, engine: Engine, state: Any) -> float:
        return timed(lambda: self._build(engine, state))

    def tidy(self, engine: Engine, state: Any) -> None:
        for tag in _tags(engine):
            if "bench-built" in tag:
                engine.api.call("DELETE", f"{API}/images/{tag}?force=1")

    def _build(self, engine: Engine, tar: bytes) -> None:
        query = f"t=bench-built/{self.name}&rm=1&forcerm=1&nocache={int(not self.cached)}"
        said = engine.api.send_bytes("POST", f"{API}/build?{query}", tar, {"Content-Type": "application/x-tar"})
        if b'"error' in said:
            raise Failed(f"{engine.name} cannot build: {said[-400:].decode(errors='replace')}")


class BuildRun(Build):
    name, title = "build-run", "build: a trivial RUN step"


class BuildCached(Build):
    name, title = "build-cached", f"build: {STEPS} cached steps"
    rounds = (10, 30)
    steps = tuple(f"RUN echo {number} > /made" for number in range(STEPS))
    cached = True


class BuildCopy(Build):
    name, title = "build-copy", f"build: COPY of {COPIED:,} files"
    rounds = (2, 5)
    files = COPIED
    steps = ("COPY files /files",)


class NetworkCreate(Case):
    name, title = "network-create", "create a network by the API"
    rounds = (15, 40)

    def sample(self, engine: Engine, state: Any) -> float:
        return self._both(engine)[0]

    def _both(self, engine: Engine) -> tuple[float, float]:
        name = f"bench-{secrets.token_hex(4)}"
        asked = {"Name": name, "CheckDuplicate": True, "Driver": "bridge"}
        created = timed(lambda: engine.api.call("POST", f"{API}/networks/create", asked))
        return created, timed(lambda: engine.api.call("DELETE", f"{API}/networks/{name}"))


class NetworkRemove(NetworkCreate):
    name, title = "network-remove", "remove it"

    def sample(self, engine: Engine, state: Any) -> float:
        return self._both(engine)[1]


class Published(Case):
    name, title, unit = "port", "from a published port of loopback, one connection", "B/s"
    rounds = (5, 10)

    def prepare(self, engine: Engine) -> Any:
        script = f"dd if=/dev/zero of=/www/big bs=1M count={SERVED >> 20} 2> /dev/null; exec httpd -f -p 80 -h /www"
        ports = {"80/tcp": [{"HostPort": str(engine.port)}]}
        host = {"PortBindings": ports, "Tmpfs": {"/www": f"size={SERVED + (1 << 20)}"}}
        more = {"HostConfig": host, "ExposedPorts": {"80/tcp": {}}}
        engine.api.start(engine.api.create(engine.image("busybox"), ["sh", "-c", script], **more))
        end = time.monotonic() + SERVES_AFTER_S
        while not self._fetch(engine.port):
            if time.monotonic() > end:
                raise Failed(f"{engine.name}: nothing comes from a published port")
            time.sleep(0.05)

    def sample(self, engine: Engine, state: Any) -> float:
        sizes: list[int] = []
        seconds = timed(lambda: sizes.append(self._fetch(engine.port)))
        if sizes[0] < SERVED:
            raise Failed(f"{engine.name}: {sizes[0]} bytes came of {SERVED}")
        return SERVED / seconds

    def _fetch(self, port: int) -> int:
        """Bytes that came; 0 if nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", port), SERVES_AFTER_S) as connection:
                connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
                return drain(connection)
        except OSError:
            return 0


class MemoryIdle(Case):
    name, title, unit = "memory-idle", "memory of the idle engine (PSS)", "B"
    rounds = (1, 1)

    def sample(self, engine: Engine, state: Any) -> float:
        engine.stop()
        engine.start()
        time.sleep(1.0)
        return engine.memory()


class MemoryUsed(Case):
    name, title, unit = "memory-used", f"memory {IDLE_AFTER_S:.0f} s after all that (PSS)", "B"
    rounds = (1, 1)
    full_only = True

    def sample(self, engine: Engine, state: Any) -> float:
        time.sleep(IDLE_AFTER_S)
        return engine.memory()


class MemoryRunning(Case):
    name, title, unit = "memory-running", "memory for each running container (PSS)", "B"
    rounds = (1, 3)

    def sample(self, engine: Engine, state: Any) -> float:
        warm_up = engine.api.create(engine.image("busybox"), ["true"])
        engine.api.start(warm_up)
        engine.api.wait(warm_up)
        before = engine.memory()
        for _ in range(RUNNING):
            engine.api.start(engine.api.create(engine.image("busybox"), SLEEP))
        time.sleep(0.5)
        after = engine.memory()
        engine.clean()
        return max(0, after - before) / RUNNING


class Listed(Case):
    """With containers that were created and not started."""

    def prepare(self, engine: Engine) -> Any:
        for _ in range(LISTED - len(engine.api.json("GET", f"{API}/containers/json?all=1"))):
            engine.api.create(engine.image("busybox"), ["true"])

    def tidy(self, engine: Engine, state: Any) -> None:
        """They stay for the next case of this kind; the last one ends with the engine."""


class ListApi(Listed):
    name, title = "list", f"GET containers/json?all=1 of {LISTED}"
    rounds = (15, 40)

    def sample(self, engine: Engine, state: Any) -> float:
        answers: list[Any] = []
        seconds = timed(lambda: answers.append(engine.api.call("GET", f"{API}/containers/json?all=1")))
        if len(json.loads(answers[0])) < LISTED:
            raise Failed(f"{engine.name} lists {len(json.loads(answers[0]))} containers")
        return seconds


class PsDocker(Listed):
    name, title = "ps", f"docker ps -a of {LISTED}"

    def sample(self, engine: Engine, state: Any) -> float:
        return _client(engine, ["docker", "ps", "-a"])


class PsOwn(Listed):
    name, title = "ps-own", "the same, the engine's own client"

    def sample(self, engine: Engine, state: Any) -> float:
        return _client(engine, engine.client("ps", "-a"))


class EngineStart(Listed):
    name, title = "engine-start", f"engine start to its first list of {LISTED}"
    rounds = (3, 7)

    def sample(self, engine: Engine, state: Any) -> float:
        engine.stop()
        return engine.start(f"{API}/containers/json?all=1")


def _logging(engine: Engine, size: int) -> str:
    times = size // images.LINES_SIZE
    script = f"i=0; while [ $i -lt {times} ]; do cat {images.LINES}; i=$((i+1)); done"
    return engine.api.create(engine.image("busybox"), ["sh", "-c", script])


def _feed(connection: socket.socket, size: int) -> None:
    data = memoryview(images.LINE * (size // len(images.LINE) + 1))[:size]
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def _settle() -> None:
    """Have the disk at rest: what an engine left to the kernel is not the next one's to write."""
    subprocess.run(["sync"], check=True)


def _tags(engine: Engine) -> list[str]:
    return [tag for image in engine.api.json("GET", f"{API}/images/json") for tag in image.get("RepoTags") or []]


ALL: tuple[type[Case], ...] = (
    MemoryIdle,
    RunDocker,
    RunOwn,
    RunApi,
    RunPublished,
    Start,
    Exec,
    Parallel,
    WriteLog,
    ReadLog,
    Attach,
    MemoryRunning,
    PullBig,
    PullSmall,
    PullTiny,
    MemoryUsed,
    ListApi,
    PsDocker,
    PsOwn,
    EngineStart,
    Save,
    Load,
    PushFresh,
    NetworkCreate,
    NetworkRemove,
    Published,
    BuildRun,
    BuildCached,
    BuildCopy,
)
