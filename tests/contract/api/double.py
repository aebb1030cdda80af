"""A small engine in memory: enough of every noun for the API to be spoken to in earnest."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

from scow.api.interfaces import Chunks, Deletions, Duplex, Filters, History
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError
from scow.oci.platform import Platform
from scow.wire.container import (
    ContainerConfig,
    ContainerInspect,
    ContainerState,
    ContainerSummary,
    CreateReply,
    CreateRequest,
    NetworkSettings,
    SummaryHostConfig,
    TopReply,
    WaitReply,
)
from scow.wire.disk import DataRootUsage, PartUsage
from scow.wire.event import Actor, Event
from scow.wire.exec import ExecCreateRequest, ExecInspect, ExecStartRequest, ProcessConfig
from scow.wire.host_config import HostConfig
from scow.wire.image import (
    CommitRequest,
    DeleteItem,
    HistoryItem,
    ImageExecConfig,
    ImageInspect,
    ImageSummary,
    ImportRequest,
    RootFS,
)
from scow.wire.network import EndpointSettings, Network
from scow.wire.progress import ProgressMessage, progress_step
from scow.wire.system import (
    AuthConfig,
    AuthReply,
    Commit,
    DiskUsage,
    Info,
    RuntimeInfo,
    Version,
    VersionPlatform,
)
from scow.wire.volume import Volume, VolumeCreateRequest, VolumeList

ID = "c0ffee" + "0" * 58
IMAGE_ID = "sha256:" + "ab" * 32

T = TypeVar("T")
Pump = Callable[[Duplex], Awaitable[None]]


class Box:
    """A container of the double."""

    def __init__(self, name: str, request: CreateRequest) -> None:
        self.name = name
        self.request = request
        self.running = False
        self.exit_code: int | None = None
        self.exited = asyncio.Event()
        self.pump: Pump = echo


async def echo(client: Duplex) -> None:
    """Send back what comes, as `cat` would."""
    while data := await client.receive():
        await client.send([(1, data)])


class Attached:
    """An attachment that runs a function over the client."""

    def __init__(self, pump: Pump, tty: bool = False) -> None:
        self.pump = pump
        self.tty = tty
        self.ended = asyncio.Event()

    async def run(self, client: Duplex) -> None:
        try:
            await self.pump(client)
        finally:
            self.ended.set()


class Stream(Generic[T]):
    """A stream whose closing can be awaited."""

    def __init__(self, items: AsyncGenerator[T, None], tty: bool = False) -> None:
        self._items = items
        self.tty = tty
        self.closed = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[T]:
        return self._items.__aiter__()

    async def aclose(self) -> None:
        await self._items.aclose()
        self.closed.set()


class Waiting:
    """A wait for a box's exit."""

    def __init__(self, box: Box) -> None:
        self._box = box

    async def result(self) -> WaitReply:
        await self._box.exited.wait()
        return WaitReply(status_code=self._box.exit_code or 0)


class NoSuchContainer(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"No such container: {ref}")


class Containers:
    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.calls: list[tuple[str, Any]] = []
        self.log_batches: list[Chunks] = [[(1, b"out\n"), (2, b"err\n")]]
        self.log_error: ScowError | None = None
        self.log_hold: asyncio.Event | None = None
        self.log_stream: Stream[Chunks] | None = None
        self.attachments: list[Attached] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.done = asyncio.Event()

    def get(self, ref: str) -> Box:
        try:
            return self.boxes[ref]
        except KeyError:
            raise NoSuchContainer(ref) from None

    async def create(self, request: CreateRequest, name: str | None, platform: str | None) -> CreateReply:
        self.calls.append(("create", (request, name, platform)))
        if request.image == "missing":
            raise NotFound("No such image: missing:latest")
        if request.image == "broken":
            raise RuntimeError("the disk is on fire")
        name = name or "happy_scow"
        if name in self.boxes:
            raise Conflict(f'Conflict. The container name "/{name}" is already in use by container "{ID}".')
        self.boxes[name] = Box(name, request)
        return CreateReply(id=ID)

    async def list(self, *, all: bool, limit: int | None, size: bool, filters: Filters) -> list[ContainerSummary]:
        self.calls.append(("list", {"all": all, "limit": limit, "size": size, "filters": dict(filters)}))
        return [
            ContainerSummary(
                id=ID,
                names=[f"/{box.name}"],
                image=box.request.image,
                image_id=IMAGE_ID,
                command="true",
                created=1,
                state="running" if box.running else "exited",
                status="Up",
                host_config=SummaryHostConfig(network_mode="bridge", annotations={"a": "b"}),
            )
            for box in self.boxes.values()
        ]

    async def inspect(self, ref: str, size: bool = False) -> ContainerInspect:
        box = self.get(ref)
        return ContainerInspect(
            id=ID,
            created="2024-01-01T00:00:00Z",
            path="true",
            state=ContainerState(running=box.running),
            image=IMAGE_ID,
            name=f"/{box.name}",
            host_config=box.request.host_config or HostConfig(),
            config=ContainerConfig(image=box.request.image, hostname="box"),
            network_settings=NetworkSettings(networks={"mine": EndpointSettings(aliases=["web"])}),
            size_rw=5 if size else None,
        )

    async def start(self, ref: str) -> bool:
        await self.gate.wait()
        box = self.get(ref)
        was = box.running
        box.running = True
        self.done.set()
        return not was

    async def stop(self, ref: str, timeout_s: int | None, signal: str | None) -> bool:
        self.calls.append(("stop", (timeout_s, signal)))
        box = self.get(ref)
        was = box.running
        box.running = False
        box.exit_code = 137
        box.exited.set()
        return was

    async def restart(self, ref: str, timeout_s: int | None, signal: str | None) -> None:
        self.calls.append(("restart", (timeout_s, signal)))
        self.get(ref).running = True

    async def kill(self, ref: str, signal: str | None) -> None:
        if not self.get(ref).running:
            raise Conflict(f"container {ID} is not running")
        await self.stop(ref, 0, signal)

    async def rename(self, ref: str, name: str) -> None:
        box = self.boxes.pop(self.get(ref).name)
        box.name = name
        self.boxes[name] = box

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        self.calls.append(("remove", {"force": force, "volumes": volumes, "link": link}))
        if self.get(ref).running and not force:
            raise Conflict(f"cannot remove container: {ref}: container is running: stop the container before removing")
        del self.boxes[ref]

    async def pause(self, ref: str) -> None:
        self.get(ref)

    async def unpause(self, ref: str) -> None:
        self.get(ref)

    async def resize(self, ref: str, height: int, width: int) -> None:
        self.get(ref)
        self.calls.append(("resize", (height, width)))

    async def waiter(self, ref: str, condition: str) -> Waiting:
        self.calls.append(("wait", condition))
        return Waiting(self.get(ref))

    async def attachment(
        self, ref: str, *, stdin: bool, stdout: bool, stderr: bool, stream: bool, logs: bool, detach_keys: str | None
    ) -> Attached:
        box = self.get(ref)
        self.calls.append(("attach", {"stdin": stdin, "stdout": stdout, "stderr": stderr, "keys": detach_keys}))
        attached = Attached(box.pump, box.request.tty)
        self.attachments.append(attached)
        return attached

    async def logs(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        follow: bool,
        tail: int | None,
        since_ns: int | None,
        until_ns: int | None,
        timestamps: bool,
        details: bool,
    ) -> Stream[Chunks]:
        box = self.get(ref)
        self.calls.append(("logs", {"follow": follow, "tail": tail, "since": since_ns, "until": until_ns}))

        async def batches() -> AsyncGenerator[Chunks, None]:
            for batch in self.log_batches:
                yield batch
            if self.log_error is not None:
                raise self.log_error
            if self.log_hold is not None:
                await self.log_hold.wait()

        self.log_stream = Stream(batches(), box.request.tty)
        return self.log_stream

    async def top(self, ref: str, ps_args: str) -> TopReply:
        self.get(ref)
        return TopReply(titles=["PID", "CMD"], processes=[["1", "true"]])


class Execs:
    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self.requests: dict[str, ExecCreateRequest] = {}
        self.starts: list[ExecStartRequest] = []
        self.pump: Pump = echo

    async def create(self, ref: str, request: ExecCreateRequest) -> str:
        self._containers.get(ref)
        self.requests["e1"] = request
        return "e1"

    def get(self, id: str) -> ExecCreateRequest:
        if id not in self.requests:
            raise NotFound(f"No such exec instance: {id}")
        return self.requests[id]

    async def start(self, id: str, request: ExecStartRequest) -> Attached | None:
        exec = self.get(id)
        self.starts.append(request)
        return None if request.detach else Attached(self.pump, exec.tty)

    async def inspect(self, id: str) -> ExecInspect:
        exec = self.get(id)
        return ExecInspect(
            id=id,
            running=False,
            exit_code=0,
            process_config=ProcessConfig(tty=exec.tty, entrypoint="sh", arguments=[]),
            open_stdin=False,
            open_stderr=True,
            open_stdout=True,
            can_remove=False,
            container_id=ID,
            detach_keys="",
            pid=0,
        )

    async def resize(self, id: str, height: int, width: int) -> None:
        self.get(id)


class Images:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.pull_error: Exception | None = None
        self.pull_hold: asyncio.Event | None = None
        self.pull_stream: Stream[ProgressMessage] | None = None

    async def list(
        self, *, all: bool, digests: bool, shared_size: bool, filters: Filters, manifests: bool = False
    ) -> list[ImageSummary]:
        self.calls.append(("list", {"all": all, "shared_size": shared_size, "filters": dict(filters)}))
        return [ImageSummary(created=1, id=IMAGE_ID, size=7)]

    async def inspect(self, ref: str, *, platform: Platform | None = None, manifests: bool = False) -> ImageInspect:
        self.calls.append(("inspect", ref))
        if ref == "missing":
            raise NotFound("No such image: missing:latest")
        return ImageInspect(
            id=IMAGE_ID, architecture="amd64", os="linux", size=7, root_fs=RootFS(), config=ImageExecConfig(cmd=["sh"])
        )

    async def history(self, ref: str, platform: Platform | None = None) -> History:
        self.calls.append(("history", ref))
        return [HistoryItem(created_by="COPY / /")]

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        self.calls.append(("tag", (ref, repo, tag)))

    async def remove(self, ref: str, *, force: bool, prune: bool, platforms: Sequence[Platform] = ()) -> Deletions:
        self.calls.append(("remove", (ref, force, prune)))
        return [DeleteItem(untagged="a:b"), DeleteItem(deleted=IMAGE_ID)]

    async def pull(
        self, from_image: str, tag: str | None, platform: str | None, auth: str | None, *, every_platform: bool = False
    ) -> Stream[ProgressMessage]:
        self.calls.append(("pull", (from_image, tag, platform, auth)))
        if from_image == "missing":
            raise NotFound("pull access denied for missing, repository does not exist")

        async def messages() -> AsyncGenerator[ProgressMessage, None]:
            yield ProgressMessage(status="Pulling from library/busybox", id="latest")
            if self.pull_hold is not None:
                await self.pull_hold.wait()
            if self.pull_error is not None:
                raise self.pull_error
            yield progress_step("0123456789ab", "Pull complete")

        self.pull_stream = Stream(messages())
        return self.pull_stream

    async def push(
        self, ref: str, tag: str | None, auth: str | None, platform: Platform | None = None
    ) -> Stream[ProgressMessage]:
        self.calls.append(("push", (ref, tag, auth)))

        async def messages() -> AsyncGenerator[ProgressMessage, None]:
            yield ProgressMessage(aux={"Tag": tag, "Digest": IMAGE_ID, "Size": 3})

        return Stream(messages())


class Commits:
    def __init__(self) -> None:
        self.calls: list[CommitRequest] = []

    async def run(self, request: CommitRequest) -> str:
        self.calls.append(request)
        return IMAGE_ID


class Imports:
    def __init__(self) -> None:
        self.calls: list[tuple[ImportRequest, bytes]] = []

    async def run(self, request: ImportRequest, arriving: AsyncIterator[bytes]) -> Stream[ProgressMessage]:
        self.calls.append((request, b"".join([data async for data in arriving])))

        async def messages() -> AsyncGenerator[ProgressMessage, None]:
            yield ProgressMessage(status="sha256:imported")

        return Stream(messages())


class Networks:
    async def list(self, filters: Filters) -> list[Network]:
        return [Network(name="bridge", id=ID, created="2024-01-01T00:00:00Z", driver="bridge")]

    async def inspect(self, ref: str, scope: str = "") -> Network:
        if ref != "bridge":
            raise NotFound(f"network {ref} not found")
        return (await self.list({}))[0]


class Volumes:
    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}

    async def list(self, filters: Filters) -> VolumeList:
        return VolumeList(volumes=[*self.volumes.values()])

    async def inspect(self, name: str) -> Volume:
        if name not in self.volumes:
            raise NotFound(f"get {name}: no such volume")
        return self.volumes[name]

    async def create(self, request: VolumeCreateRequest) -> Volume:
        volume = Volume(name=request.name or "anonymous", mountpoint="/v", labels=request.labels)
        self.volumes[volume.name] = volume
        return volume

    async def remove(self, name: str, *, force: bool) -> None:
        await self.inspect(name)
        del self.volumes[name]


class Events:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.calls: list[dict[str, object]] = []
        self.stream: Stream[Event] | None = None

    async def subscribe(self, *, since_ns: int | None, until_ns: int | None, filters: Filters) -> Stream[Event]:
        self.calls.append({"since": since_ns, "until": until_ns, "filters": dict(filters)})

        async def events() -> AsyncGenerator[Event, None]:
            while (event := await self.queue.get()) is not None:
                yield event

        self.stream = Stream(events())
        return self.stream

    def publish(self, action: str) -> None:
        actor = Actor(id=ID, attributes={"name": "box"})
        self.queue.put_nowait(
            Event(
                status=action, id=ID, type="container", action=action, actor=actor, scope="local", time=1, time_nano=2
            )
        )


class System:
    async def info(self) -> Info:
        return Info(
            id="engine",
            security_options=["name=seccomp,profile=builtin", "name=cgroupns"],
            runtimes={"crun": RuntimeInfo(path="crun", status={"a": "b"})},
            runc_commit=Commit(id="abc"),
        )

    async def version(self) -> Version:
        return Version(
            platform=VersionPlatform(name="Scow"), components=[], version="28.2.2", api_version="1.50",
            min_api_version="1.24", git_commit="", go_version="", os="linux", arch="amd64",
        )  # fmt: skip

    async def auth(self, credentials: AuthConfig) -> AuthReply:
        if credentials.password != "right":
            raise InvalidArgument("Get https://registry.example/v2/: unauthorized")
        return AuthReply(status="Login Succeeded")


class Disk:
    async def df(self, types: Collection[str] = ()) -> DiskUsage:
        if types:
            return DiskUsage(images=[] if "image" in types else None, volumes=[] if "volume" in types else None)
        return DiskUsage(layers_size=1, images=[], containers=[], volumes=[], build_cache=[])

    async def data_root(self) -> DataRootUsage:
        return DataRootUsage(root="/r", total=1, parts=[PartUsage(name="layers", files=1, size=1, about="")])


class Engine:
    """The double."""

    def __init__(self) -> None:
        self.containers = Containers()
        self.execs = Execs(self.containers)
        self.images = Images()
        self.commits = Commits()
        self.imports = Imports()
        self.networks = Networks()
        self.volumes = Volumes()
        self.events = Events()
        self.system = System()
        self.disk = Disk()

    def box(self, name: str = "box", *, tty: bool = False) -> Box:
        """Put a container into the engine."""
        box = Box(name, CreateRequest(image="busybox", tty=tty))
        self.containers.boxes[name] = box
        return box
