"""What workers do with files that are there, and what they tell of it meanwhile."""

import socket
import threading
from pathlib import Path

import pytest

from scow.oci.digest import sha256
from scow.store import forkserver
from scow.store.ingest import READ_SIZE
from scow.store.jobs import perform
from scow.store.workers import Worker
from support import images

TAR = images.tar({"file": bytes(3 * READ_SIZE)})


def job(folder: Path, do: str, **fields: object) -> dict[str, object]:
    """A job about TAR, in a folder of its own."""
    file, directory = folder / "source", folder / "job"
    file.write_bytes(TAR)
    directory.mkdir()
    given = {"do": do, "directory": str(directory), "tar": str(file), "file": str(file), "form": "erofs"}
    return {**given, "diff_id": None, "digest": None, "blob": None, "limit": 1 << 30, "compression": "gzip", **fields}


@pytest.mark.parametrize("do", ["take", "compress"])
def test_a_job_tells_how_many_bytes_of_its_file_are_done(tmp_path: Path, do: str) -> None:
    told: list[int] = []
    answer = perform(job(tmp_path, do), None, lambda: None, told.append)
    assert "error" not in answer
    assert told == [READ_SIZE, 2 * READ_SIZE, 3 * READ_SIZE, len(TAR)]


async def test_a_workers_answer_comes_after_what_it_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "_TELL_EVERY_S", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    thread = threading.Thread(target=forkserver.work, args=(theirs,))
    thread.start()
    worker = Worker(0, -1, ours)
    told: list[int] = []
    try:
        await worker.send(job(tmp_path, "take", job="one"))
        answer = await worker.receive(told.append)
    finally:
        ours.close()
        thread.join()
        theirs.close()
    assert answer["diff_id"] == sha256(TAR)
    assert told[-1] == len(TAR)
