"""Objects in a folder that several processes share."""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from scow.oci.digest import Digest
from scow.registry.folder import PIECE_SIZE, Folder
from scow.registry.objects import ObjectName, object_name

UPLOAD = "00000000-0000-4000-8000-000000000000"


async def store(folder: Folder, data: bytes) -> ObjectName:
    name = object_name(Digest(f"sha256:{hashlib.sha256(data).hexdigest()}"), UPLOAD)
    stage = await folder.open_stage(UPLOAD, create=True)
    await stage.publish(name, [data], hashlib.sha256())
    await stage.close()
    await folder.discard(UPLOAD)
    return name


def is_open(path: Path) -> bool:
    targets = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return any(target.startswith(str(path)) for target in targets)


@pytest.mark.parametrize("size", [1, PIECE_SIZE - 1, PIECE_SIZE, 3 * PIECE_SIZE])
@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("step", [1 << 30, 10_000])
async def test_pieces_are_written_in_order_whatever_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, count: int, step: int
) -> None:
    whole = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        return whole(fd, data[:step], offset)  # the kernel may write less than it is given

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, offset: pwrite(fd, b"".join(pieces), offset))
    folder = Folder(tmp_path)
    stage = await folder.open_stage(UPLOAD, create=True)
    pieces: Sequence[bytes] = [os.urandom(size) for _ in range(count)]
    state = hashlib.sha256()
    for _ in range(2):
        await stage.append(pieces, [state])
    await stage.close()
    assert folder.stage_path(UPLOAD).read_bytes() == b"".join(pieces) * 2
    assert stage.size == 2 * size * count
    assert state.digest() == hashlib.sha256(b"".join(pieces) * 2).digest()
    await folder.aclose()


async def test_a_blob_that_another_process_removed_gives_its_space_back(tmp_path: Path) -> None:
    ours, theirs = Folder(tmp_path, sweep_s=0.01), Folder(tmp_path)
    gone, left = await store(ours, b"one"), await store(ours, b"two")
    for name in (gone, left):
        opened = await ours.open(name)
        assert opened is not None
        opened.release()
    await theirs.remove(gone)
    async with asyncio.timeout(60):
        while is_open(ours.path(gone)):  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.01)
    assert is_open(ours.path(left))
    await ours.aclose()
    await theirs.aclose()
    assert not is_open(ours.path(left))


async def test_whoever_reads_a_removed_blob_reads_it_to_its_end(tmp_path: Path) -> None:
    ours, theirs = Folder(tmp_path, sweep_s=0.01), Folder(tmp_path)
    name = await store(ours, b"data")
    reader = await ours.open(name)
    assert reader is not None
    await theirs.remove(name)
    await asyncio.sleep(0.1)
    assert os.pread(reader.file.fileno(), 10, 0) == b"data"
    reader.release()
    assert not is_open(ours.path(name))
    await ours.aclose()
    await theirs.aclose()


def test_a_folder_that_cannot_be_written_to_is_found_before_anybody_pushes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.check_writable()
    if os.geteuid() != 0:
        (tmp_path / "uploads").chmod(0o500)
        with pytest.raises(PermissionError, match="uploads"):
            folder.check_writable()
        return
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="uploads"):
            folder.check_writable()
    finally:
        os.seteuid(0)
