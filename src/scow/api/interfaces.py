"""What the API asks of the engine: everything that a handler calls, and nothing else."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest
from scow.oci.platform import Platform
from scow.wire.archive import FilesystemChange, PathStat
from scow.wire.build import BuildRequest, CacheRoom, PruneBuildReply, SessionRequest
from scow.wire.check import CheckMessage
from scow.wire.container import (
    ContainerInspect,
    ContainerSummary,
    CreateReply,
    CreateRequest,
    PruneContainersReply,
    TopReply,
    UpdateReply,
    UpdateRequest,
    WaitReply,
)
from scow.wire.disk import DataRootUsage
from scow.wire.event import Event
from scow.wire.exec import ExecCreateRequest, ExecInspect, ExecStartRequest
from scow.wire.image import (
    CommitRequest,
    DeleteItem,
    DistributionInspect,
    HistoryItem,
    ImageInspect,
    ImageSummary,
    ImportRequest,
    PruneImagesReply,
    SearchResult,
)
from scow.wire.network import (
    ConnectRequest,
    DisconnectRequest,
    Network,
    NetworkCreateReply,
    NetworkCreateRequest,
    PruneNetworksReply,
)
from scow.wire.progress import ProgressMessage
from scow.wire.stats import Stats
from scow.wire.system import AuthConfig, AuthReply, DiskUsage, Info, Version
from scow.wire.volume import PruneVolumesReply, Volume, VolumeCreateRequest, VolumeList

Filters = Mapping[str, list[str]]
Chunks = list[tuple[int, bytes]]
ContainerList = list[ContainerSummary]
ImageList = list[ImageSummary]
History = list[HistoryItem]
Deletions = list[DeleteItem]
NetworkList = list[Network]


class Duplex(Protocol):
    """A client's end of an attached stream. The API makes it, the engine pumps it."""

    async def receive(self) -> bytes:
        """Give what the client sent next, b"" once it has closed its side."""
        ...

    async def send(self, chunks: Chunks) -> None:
        """Send output of (stream number, data). Returns when there is room for more; raises ConnectionError."""
        ...

    async def wait_closed(self) -> None:
        """Return when the client is gone altogether."""
        ...


class Attachment(Protocol):
    """A registered attachment: from now on no output is lost."""

    @property
    def tty(self) -> bool: ...

    async def run(self, client: Duplex) -> None:
        """Pump until the container or the client ends it."""
        ...


class Waiter(Protocol):
    """A registered wait."""

    async def result(self) -> WaitReply: ...


class LogStream(Protocol):
    """The log of a container, in batches of (stream number, data)."""

    @property
    def tty(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[Chunks]: ...

    async def aclose(self) -> None: ...


class ProgressStream(Protocol):
    """The progress of something long; closing it early cancels the work."""

    def __aiter__(self) -> AsyncIterator[ProgressMessage]: ...

    async def aclose(self) -> None: ...


class EventStream(Protocol):
    """A subscription that is active from when it was made until it is closed."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def aclose(self) -> None: ...


class Containers(Protocol):
    """The engine's containers."""

    async def create(self, request: CreateRequest, name: str | None, platform: str | None) -> CreateReply: ...

    async def list(self, *, all: bool, limit: int | None, size: bool, filters: Filters) -> ContainerList: ...

    async def inspect(self, ref: str, size: bool = False) -> ContainerInspect: ...

    async def start(self, ref: str) -> bool: ...

    async def stop(self, ref: str, timeout_s: int | None, signal: str | None) -> bool: ...

    async def restart(self, ref: str, timeout_s: int | None, signal: str | None) -> None: ...

    async def kill(self, ref: str, signal: str | None) -> None: ...

    async def rename(self, ref: str, name: str) -> None: ...

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None: ...

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...

    async def resize(self, ref: str, height: int, width: int) -> None: ...

    async def waiter(self, ref: str, condition: str) -> Waiter: ...

    async def attachment(
        self,
        ref: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        stream: bool,
        logs: bool,
        detach_keys: str | None,
    ) -> Attachment: ...

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
    ) -> LogStream: ...

    async def top(self, ref: str, ps_args: str) -> TopReply: ...


class TarStream(Protocol):
    """A tar on its way out; closing it early cancels the work."""

    @property
    def stat(self) -> PathStat | None: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Archives(Protocol):
    """Containers' and volumes' files."""

    async def stat(self, ref: str, path: str) -> PathStat: ...

    async def get(self, ref: str, path: str) -> TarStream: ...

    async def put(self, ref: str, path: str, content: AsyncIterator[bytes], *, keep_kinds: bool, own: bool) -> None: ...

    async def export(self, ref: str) -> TarStream: ...

    async def export_volume(self, name: str) -> TarStream: ...

    async def import_volume(self, name: str, content: AsyncIterator[bytes]) -> None: ...


class SavedArchive(Protocol):
    """An archive of images that is ready to be sent: bytes, and files with their sizes."""

    @property
    def size(self) -> int: ...

    @property
    def parts(self) -> Sequence[bytes | tuple[Path, int]]: ...

    async def aclose(self) -> None: ...


class ImageArchives(Protocol):
    """Saves and loads images."""

    async def save(self, refs: Sequence[str], platform: Platform | None = None) -> SavedArchive: ...

    async def load(
        self, arriving: AsyncIterator[bytes], *, quiet: bool = False, platform: Platform | None = None
    ) -> ProgressStream: ...


class Commits(Protocol):
    """Makes images of containers."""

    async def run(self, request: CommitRequest) -> str: ...


class Imports(Protocol):
    """Makes images of tars."""

    async def run(self, request: ImportRequest, arriving: AsyncIterator[bytes]) -> ProgressStream: ...


class Distribution(Protocol):
    """Asks registries."""

    async def inspect(self, ref: str, auth: str | None) -> DistributionInspect: ...

    async def manifest(self, ref: str, auth: str | None) -> tuple[Descriptor, bytes]: ...

    async def put_list(
        self, ref: str, data: bytes, media_type: str, sources: Sequence[str], auth: str | None
    ) -> Digest: ...

    async def search(self, term: str, limit: int, filters: Filters, auth: str | None) -> list[SearchResult]: ...


class StatsReader(Protocol):
    """What containers use."""

    async def read(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncGenerator[Stats, None]: ...


class Changes(Protocol):
    """What differs between containers and their images."""

    async def of(self, ref: str) -> list[FilesystemChange]: ...


class Updates(Protocol):
    """Changes limits of containers."""

    async def update(self, ref: str, request: UpdateRequest) -> UpdateReply: ...


class Pruning(Protocol):
    """Removes what nobody uses."""

    async def containers(self, filters: Filters) -> PruneContainersReply: ...

    async def images(self, filters: Filters) -> PruneImagesReply: ...

    async def volumes(self, filters: Filters, *, named: bool) -> PruneVolumesReply: ...


class Execs(Protocol):
    """Commands inside containers."""

    async def create(self, ref: str, request: ExecCreateRequest) -> str: ...

    async def start(self, id: str, request: ExecStartRequest) -> Attachment | None: ...

    async def inspect(self, id: str) -> ExecInspect: ...

    async def resize(self, id: str, height: int, width: int) -> None: ...


class Images(Protocol):
    """The engine's images."""

    async def list(
        self, *, all: bool, digests: bool, shared_size: bool, filters: Filters, manifests: bool = False
    ) -> ImageList: ...

    async def inspect(self, ref: str, *, platform: Platform | None = None, manifests: bool = False) -> ImageInspect: ...

    async def history(self, ref: str, platform: Platform | None = None) -> History: ...

    async def tag(self, ref: str, repo: str, tag: str) -> None: ...

    async def remove(self, ref: str, *, force: bool, prune: bool, platforms: Sequence[Platform] = ()) -> Deletions: ...

    async def pull(
        self,
        from_image: str,
        tag: str | None,
        platform: str | None,
        auth: str | None,
        *,
        every_platform: bool = False,
    ) -> ProgressStream: ...

    async def push(
        self, ref: str, tag: str | None, auth: str | None, platform: Platform | None = None
    ) -> ProgressStream: ...


class BuildCache(Protocol):
    """The build cache's records."""

    async def prune(self, filters: Filters, *, all: bool, room: CacheRoom) -> PruneBuildReply: ...


class BuildSessions(Protocol):
    """What clients hand over before a build and fetch after it."""

    async def open(self, request: SessionRequest) -> str: ...

    async def receive(self, content: AsyncIterator[bytes]) -> str: ...

    async def cache(self, id: str) -> SavedArchive: ...


class BuildResults(Protocol):
    """Archives and trees that builds have made for their clients."""

    async def archive(self, id: str, number: int) -> SavedArchive: ...

    async def trees(self, id: str, number: int) -> TarStream: ...

    def forget(self, id: str) -> None: ...


class Builds(Protocol):
    """Builds and their cache."""

    async def build(
        self, request: BuildRequest, content: AsyncIterator[bytes], registry_config: str | None
    ) -> ProgressStream: ...

    def cancel(self, id: str) -> None: ...

    @property
    def sessions(self) -> BuildSessions: ...

    @property
    def usage(self) -> BuildCache: ...

    @property
    def results(self) -> BuildResults: ...


class Networks(Protocol):
    """The engine's networks."""

    async def list(self, filters: Filters) -> NetworkList: ...

    async def inspect(self, ref: str, scope: str = "") -> Network: ...

    async def create(self, request: NetworkCreateRequest) -> NetworkCreateReply: ...

    async def remove(self, ref: str) -> None: ...

    async def connect(self, ref: str, request: ConnectRequest) -> None: ...

    async def disconnect(self, ref: str, request: DisconnectRequest) -> None: ...

    async def prune(self, filters: Filters) -> PruneNetworksReply: ...

    async def reload(self) -> None: ...


class Volumes(Protocol):
    """The engine's volumes."""

    async def list(self, filters: Filters) -> VolumeList: ...

    async def inspect(self, name: str) -> Volume: ...

    async def create(self, request: VolumeCreateRequest) -> Volume: ...

    async def remove(self, name: str, *, force: bool) -> None: ...


class Events(Protocol):
    """The engine's event bus."""

    async def subscribe(self, *, since_ns: int | None, until_ns: int | None, filters: Filters) -> EventStream: ...


class System(Protocol):
    """What the engine tells about itself."""

    async def info(self) -> Info: ...

    async def version(self) -> Version: ...

    async def auth(self, credentials: AuthConfig) -> AuthReply: ...


class DiskUsages(Protocol):
    """What the engine keeps on disk."""

    async def df(self, types: Collection[str] = ()) -> DiskUsage: ...

    async def data_root(self) -> DataRootUsage: ...


class Exploring(Protocol):
    """Looks into images."""

    async def explore(self, ref: str, *, files: bool) -> bytes: ...

    async def diff(self, before: str, after: str, *, times: bool) -> bytes: ...


class Checking(Protocol):
    """Checks what the engine keeps."""

    async def run(self, *, repair: bool, auth: str | None = None) -> AsyncGenerator[CheckMessage, None]: ...


class EngineApi(Protocol):
    """The engine, by its nouns."""

    @property
    def containers(self) -> Containers: ...

    @property
    def archives(self) -> Archives: ...

    @property
    def stats(self) -> StatsReader: ...

    @property
    def changes(self) -> Changes: ...

    @property
    def updates(self) -> Updates: ...

    @property
    def pruning(self) -> Pruning: ...

    @property
    def execs(self) -> Execs: ...

    @property
    def images(self) -> Images: ...

    @property
    def distribution(self) -> Distribution: ...

    @property
    def image_archives(self) -> ImageArchives: ...

    @property
    def commits(self) -> Commits: ...

    @property
    def imports(self) -> Imports: ...

    @property
    def builds(self) -> Builds: ...

    @property
    def networks(self) -> Networks: ...

    @property
    def volumes(self) -> Volumes: ...

    @property
    def events(self) -> Events: ...

    @property
    def system(self) -> System: ...

    @property
    def disk(self) -> DiskUsages: ...

    @property
    def exploring(self) -> Exploring: ...

    @property
    def checking(self) -> Checking: ...
