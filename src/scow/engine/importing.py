"""An image from a tar of a root file system. Engine API, POST /images/create?fromSrc=."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from yarl import URL

from scow.engine.asked_changes import with_changes
from scow.engine.events import Events
from scow.engine.image_lookup import tag_reference
from scow.engine.streams import ProgressStream
from scow.errors import InvalidArgument
from scow.oci.image_config import ExecConfig
from scow.oci.platform import host_platform, parse_platform
from scow.store.assembly import derive, publish
from scow.store.layers import Layer
from scow.store.store import Store
from scow.transfer.http import stream
from scow.transfer.progress import Meter, message
from scow.transfer.registries import Registries
from scow.wire.image import ImportRequest
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]


class BadSource(InvalidArgument):
    """The URL doesn't give a file."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"failed to GET {url} {reason}")
        self.url = url
        self.reason = reason


class Imports:
    """Makes images of one layer."""

    def __init__(self, store: Store, registries: Registries, events: Events) -> None:
        self._store = store
        self._registries = registries
        self._events = events

    async def run(self, request: ImportRequest, arriving: AsyncIterator[bytes]) -> ProgressStream:
        """Take a tar in any compression; the stream's last line is the image's ID.

        Raises InvalidArgument, also for what is no tar; what goes wrong after the first line comes from the stream.
        """
        name = tag_reference(request.repo, request.tag)
        platform = parse_platform(request.platform) if request.platform else host_platform()
        exec = await with_changes(request.changes, ExecConfig())
        comment = request.message or f"Imported from {request.source}"

        async def work(emit: Emit) -> None:
            async with self._store.leases.hold():
                layer = await self._layer(request.source, arriving, emit)
                config = derive(
                    None, [layer], exec, platform=platform, created=datetime.now(UTC), comment=comment
                )  # fmt: skip
                image = await publish(self._store, config, None if name is None else str(name))
                if name is not None:
                    self._events.emit("image", "tag", image.id, {"name": name.familiar})
                self._events.emit("image", "import", image.id, {"name": image.id})
                emit(message(image.id))

        return await ProgressStream(work).ready()

    async def _layer(self, source: str, arriving: AsyncIterator[bytes], emit: Emit) -> Layer:
        if source == "-":
            return await self._store.layers.import_tar(arriving)
        url = URL(source if "://" in source else f"http://{source}")
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidArgument(f"cannot import from {source!r}: only http and https URLs")
        response = await self._registries.transport.send("GET", url)
        try:
            if response.status != 200:
                raise BadSource(str(url), f"with status {response.status} {response.reason}".rstrip())
            emit(message(f"Downloading from {url}"))
            meter = Meter(emit, "", "Importing", response.content_length or 0)

            async def metered() -> AsyncIterator[bytes]:
                done = 0
                async for data in stream(response):
                    yield data
                    done += len(data)
                    meter.show(done)

            return await self._store.layers.import_tar(metered())
        finally:
            response.close()
