"""Content: whole or not at all, verified in and out."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from scow.oci.digest import Digest, sha256
from scow.store.content import Content, NoSuchContent, WrongDigest

ABSENT = sha256(b"absent")


@pytest.fixture
def content(tmp_path: Path) -> Content:
    (tmp_path / "ingest").mkdir()
    return Content(tmp_path / "blobs", tmp_path / "ingest")


@pytest.mark.parametrize("data", [b"", b"small", b"large" * 100_000])
async def test_bytes_come_back_by_their_digest(content: Content, tmp_path: Path, data: bytes) -> None:
    digest = await content.put(data)
    assert digest == sha256(data)
    assert await content.get(digest) == data
    assert content.has(digest)
    assert content.size(digest) == len(data)
    digits = hashlib.sha256(data).hexdigest()
    assert content.path(digest) == tmp_path / "blobs" / "sha256" / digits[:2] / digits
    assert await content.put(data, digest) == digest
    assert await content.all() == {digest: len(data)}
    assert os.listdir(tmp_path / "ingest") == []


async def test_sha512_names_content_too(content: Content) -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"x").hexdigest())
    assert await content.put(b"x", digest) == digest
    assert await content.get(digest) == b"x"


async def test_bytes_that_are_not_what_they_claim_are_refused(content: Content) -> None:
    with pytest.raises(WrongDigest, match="digest mismatch"):
        await content.put(b"other", ABSENT)
    assert not content.has(ABSENT)


async def test_what_is_not_there_says_so(content: Content) -> None:
    assert not content.has(ABSENT)
    with pytest.raises(NoSuchContent):
        await content.get(ABSENT)
    with pytest.raises(NoSuchContent):
        content.size(ABSENT)
    assert await content.remove(ABSENT) == 0


async def test_damage_on_disk_is_found_and_healed_by_putting_again(content: Content) -> None:
    digest = await content.put(b"right")
    content.path(digest).write_bytes(b"wrong")
    with pytest.raises(NoSuchContent, match="damaged on disk"):
        await content.get(digest)
    await content.put(b"right", digest)
    assert await content.get(digest) == b"right"


async def test_removing_frees_bytes_and_hides_the_blob_at_once(content: Content) -> None:
    digest = await content.put(b"12345")
    on_disk = content.path(digest).stat().st_blocks * 512
    removal = asyncio.ensure_future(content.remove(digest))
    await asyncio.sleep(0)
    if not removal.done():
        assert not content.has(digest)
        with pytest.raises(NoSuchContent):
            await content.get(digest)
    assert await removal == on_disk
    assert not content.has(digest)


async def test_putting_while_removing_leaves_the_blob(content: Content) -> None:
    digest = await content.put(b"again")
    for _ in range(20):
        await asyncio.gather(content.remove(digest), content.put(b"again"))
        assert await content.get(digest) == b"again"


async def test_a_file_is_adopted_by_one_rename(content: Content, tmp_path: Path) -> None:
    file = tmp_path / "ingest" / "layer-1"
    file.write_bytes(b"verified elsewhere")
    await content.adopt(file, sha256(b"verified elsewhere"))
    assert await content.get(sha256(b"verified elsewhere")) == b"verified elsewhere"
    assert not file.exists()


async def test_temporary_files_of_a_killed_process_are_cleared(content: Content, tmp_path: Path) -> None:
    (tmp_path / "ingest" / "content-dead").write_bytes(b"half")
    (tmp_path / "ingest" / "layer-other-owner").write_bytes(b"not ours")
    assert await content.clear_ingest() == 1
    assert os.listdir(tmp_path / "ingest") == ["layer-other-owner"]


async def test_many_puts_of_one_blob_at_once_are_fine(content: Content) -> None:
    digests = await asyncio.gather(*(content.put(b"same") for _ in range(16)))
    assert set(digests) == {sha256(b"same")}
    assert content._locks == {}
