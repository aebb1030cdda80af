"""What goes wrong on a layer's way in gives its own error, and leaves nothing on disk."""

import asyncio
import contextlib
import gzip
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, sha256
from scow.oci.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Compression
from scow.store.layers import DigestMismatch, LayerCorrupt, LayerFailed, Layers, LayerWriter, NoSuchLayer, Snapshotter
from scow.store.workers import WorkerDied, Workers

MakeLayers = Callable[..., Layers]


def tar_of(size: int, name: bytes = b"f") -> bytes:
    """A tar with one file of random bytes."""
    header = bytearray(512)
    header[: len(name)] = name
    for at, text in ((100, b"0000644"), (108, b"0000000"), (116, b"0000000"), (124, b"%011o" % size), (136, b"0" * 11)):
        header[at : at + len(text)] = text
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % (sum(header) + 8 * 32)
    return bytes(header) + os.urandom(size) + bytes(-size % 512 + 1024)


def on_disk(root: Path) -> list[str]:
    return [
        str(path.relative_to(root))
        for folder in ("layers", "blobs", "ingest")
        for path in (root / folder).rglob("*")
        if not path.is_dir() or path.parent.name == "ingest"
    ]


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    yield fd
    os.close(fd)


async def ended(process: int) -> None:
    """Wait until the process behind a pidfd has ended."""
    ready, _, _ = await asyncio.to_thread(select.select, [process], [], [], 5)
    assert ready


async def feed(layers: Layers, blob: Descriptor | None, data: bytes, **options: object) -> LayerWriter:
    async with layers.writer(blob, **options) as writer:  # type: ignore[arg-type]  # tests pass what it takes
        for start in range(0, len(data), 1 << 16):
            await writer.write(data[start : start + (1 << 16)])
        await writer.finish()
    return writer


SIZES = [1000, 4_000_000]


@pytest.mark.parametrize("size", SIZES)
async def test_a_wrong_digest(layers: Layers, store_root: Path, size: int) -> None:
    blob = gzip.compress(tar_of(size), 1)
    other = Descriptor(media_type=OCI_LAYER_GZIP, digest=sha256(b"other"), size=len(blob))
    with pytest.raises(DigestMismatch, match="digest mismatch"):
        await feed(layers, other, blob)
    assert on_disk(store_root) == []


@pytest.mark.parametrize("size", SIZES)
async def test_a_wrong_diff_id(layers: Layers, store_root: Path, size: int) -> None:
    blob = gzip.compress(tar_of(size), 1)
    descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=sha256(blob), size=len(blob))
    with pytest.raises(DigestMismatch, match="diff ID mismatch"):
        await feed(layers, descriptor, blob, diff_id=DiffID(sha256(b"other")))
    assert on_disk(store_root) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("off", [-1, 1])
async def test_a_wrong_size(layers: Layers, store_root: Path, size: int, off: int) -> None:
    blob = gzip.compress(tar_of(size), 1)
    descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=sha256(blob), size=len(blob) + off)
    with pytest.raises(DigestMismatch, match="size mismatch"):
        await feed(layers, descriptor, blob)
    assert on_disk(store_root) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("media_type", "squeeze"), [(OCI_LAYER_GZIP, gzip.compress), (OCI_LAYER_ZSTD, zstandard.compress)]
)
async def test_a_truncated_stream(
    layers: Layers, store_root: Path, size: int, kept: bool, media_type: str, squeeze
) -> None:  # type: ignore[no-untyped-def]  # a compressor
    blob = squeeze(tar_of(size))[:-5]
    descriptor = Descriptor(media_type=media_type, digest=sha256(blob), size=len(blob))
    with pytest.raises(LayerCorrupt, match="truncated"):
        await feed(layers, descriptor if kept else None, blob)
    assert on_disk(store_root) == []


@pytest.mark.parametrize("size", SIZES)
async def test_damage_in_the_middle_is_told_as_a_wrong_digest(layers: Layers, store_root: Path, size: int) -> None:
    blob = bytearray(gzip.compress(tar_of(size), 1))
    descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=sha256(blob), size=len(blob))
    blob[len(blob) // 2] ^= 0x55
    with pytest.raises(DigestMismatch):
        await feed(layers, descriptor, bytes(blob))
    with pytest.raises(LayerCorrupt):
        await feed(layers, None, bytes(blob))
    assert on_disk(store_root) == []


async def test_a_layer_that_inflates_beyond_the_limit(make_layers: MakeLayers, store_root: Path) -> None:
    layers = make_layers(inflation_limit=1_000_000)
    for squeeze in (gzip.compress, zstandard.compress):
        with pytest.raises(LayerCorrupt, match="1000000 bytes, the limit"):
            await feed(layers, None, squeeze(bytes(50_000_000)))
    assert on_disk(store_root) == []


@pytest.mark.parametrize("length", [100, 512 * 4 + 7, 3_000_000])
async def test_a_truncated_tar(layers: Layers, store_root: Path, length: int) -> None:
    with pytest.raises(LayerCorrupt, match="truncated"):
        await feed(layers, None, tar_of(4_000_000)[:length], compression=Compression.NONE)
    assert on_disk(store_root) == []


async def test_a_worker_that_is_killed(layers: Layers, store_root: Path) -> None:
    tar = tar_of(4_000_000)

    async def feed_and_kill() -> None:
        async with layers.writer(None) as writer:
            await writer.write(tar[:1_000_000])
            os.kill(writer.pid, signal.SIGKILL)
            await writer.write(tar[1_000_000:])
            await writer.finish()

    with pytest.raises(WorkerDied, match="died"):
        await feed_and_kill()
    assert on_disk(store_root) == []
    await feed(layers, None, tar)  # the next one is served


async def test_a_fork_server_that_is_killed_is_replaced(layers: Layers, workers: Workers) -> None:
    await feed(layers, None, tar_of(1000))
    assert workers.server_pid is not None
    with pidfd(workers.server_pid) as server:
        os.kill(workers.server_pid, signal.SIGKILL)
        await ended(server)
    await feed(layers, None, tar_of(2000))


async def test_a_writer_that_is_left_early_discards_everything_and_frees_its_worker(
    layers: Layers, store_root: Path, workers: Workers
) -> None:
    tar = tar_of(4_000_000)
    for _ in range(workers.count + 2):
        async with layers.writer(None) as writer:
            await writer.write(tar[:1_000_000])
            worker = os.pidfd_open(writer.pid)
        await ended(worker)
        os.close(worker)
    assert on_disk(store_root) == []


async def test_a_cancelled_import_leaves_nothing(layers: Layers, store_root: Path) -> None:
    reached = asyncio.Event()

    async def source():  # type: ignore[no-untyped-def]  # an asynchronous generator of bytes
        yield tar_of(4_000_000)[:2_000_000]
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(layers.import_tar(source()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert on_disk(store_root) == []


async def test_more_layers_at_once_than_workers(layers: Layers, workers: Workers) -> None:
    tars = [tar_of(1000 + number) for number in range(4 * workers.count)]
    await asyncio.gather(*(feed(layers, None, tar) for tar in tars))
    assert {layer.diff_id for layer in layers.all()} == {sha256(tar) for tar in tars}


async def test_the_same_layer_twice_at_once(layers: Layers) -> None:
    tar = tar_of(300_000)
    descriptor = Descriptor(media_type=OCI_LAYER, digest=sha256(tar), size=len(tar))
    await asyncio.gather(*(feed(layers, descriptor, tar) for _ in range(4)))
    assert [layer.diff_id for layer in layers.all()] == [sha256(tar)]


async def test_a_layer_in_use_is_not_removed_and_a_removed_one_is_gone(layers: Layers, store_root: Path) -> None:
    tar = tar_of(1000)
    await feed(layers, None, tar)
    diff_id = DiffID(sha256(tar))
    assert await layers.lower(diff_id) == await layers.lower(diff_id)
    await layers.release(diff_id)
    with pytest.raises(LayerFailed, match="in use"):
        await layers.remove(diff_id)
    await layers.release(diff_id)
    assert await layers.remove(diff_id) >= 0
    assert await layers.remove(diff_id) == 0
    assert on_disk(store_root) == []
    with pytest.raises(NoSuchLayer):
        await layers.lower(diff_id)


async def test_what_a_killed_engine_left_is_reconciled(
    layers: Layers, make_layers: MakeLayers, store_root: Path, snapshotter: Snapshotter
) -> None:
    tar = tar_of(1000)
    await feed(layers, None, tar)
    diff_id = DiffID(sha256(tar))
    path = await layers.lower(diff_id)
    (store_root / "ingest/layer-left").mkdir()
    (store_root / "layers/sha256/unrecorded").mkdir()
    again = make_layers()
    await again.reconcile()
    assert os.listdir(store_root / "ingest") == []
    assert os.listdir(store_root / "layers/sha256") == [diff_id.partition(":")[2]]
    assert again.all() == layers.all()
    assert (path / "f").exists()
    assert await again.lower(diff_id) == path
    await again.release(diff_id)
    assert snapshotter == "overlay2" or not (path / "f").exists()


async def test_idle_workers_end() -> None:
    workers = Workers(idle_s=0.01)
    await workers.warm()
    assert workers.server_pid is not None
    with pidfd(workers.server_pid) as server:
        await ended(server)
    await workers.aclose()
