"""Contexts on disk, as docker's tools keep them, and as archives."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from scow.cli.context_store import MOST_BYTES, ContextStore, check_name, pack, unpack
from scow.cli.errors import CliError

META = {"Name": "box", "Metadata": {}, "Endpoints": {"docker": {"Host": "tcp://h:1", "SkipTLSVerify": False}}}
TLS = {"ca.pem": b"authority", "key.pem": b"secret"}


def tar_of(**members: bytes) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    out.seek(0)
    return out


def test_what_was_written_is_read_and_removed(tmp_path: Path) -> None:
    store = ContextStore(str(tmp_path))
    store.write(META, TLS)
    assert (store.all(), store.read("box"), store.tls("box")) == ([META], META, TLS)
    store.remove("box")
    assert (store.all(), store.exists("box"), store.tls("box")) == ([], False, {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_only_the_owner_reads_keys(tmp_path: Path) -> None:
    store = ContextStore(str(tmp_path))
    store.write(META, TLS)
    assert (Path(store.tls_folder("box")) / "docker" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_new_settings_replace_tls_files_only_where_asked(tmp_path: Path) -> None:
    store = ContextStore(str(tmp_path))
    store.write(META, TLS)
    store.write(META, None)
    assert store.tls("box") == TLS
    store.write(META, {})
    assert store.tls("box") == {}


def test_an_archive_holds_the_context_and_its_files() -> None:
    assert unpack(io.BytesIO(pack(META, TLS))) == (META, TLS)
    assert unpack(io.BytesIO(pack(META, {}))) == (META, {})


def test_a_zip_is_read_too() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("meta.json", b'{"Name":"box","Endpoints":{"docker":{"Host":"unix:///s"}}}')
        archive.writestr("tls/docker/ca.pem", b"authority")
    out.seek(0)
    meta, tls = unpack(out)
    assert (meta["Endpoints"]["docker"]["Host"], tls) == ("unix:///s", {"ca.pem": b"authority"})


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (io.BytesIO(b"root:x:0:0"), "can't be read"),
        (io.BytesIO(b"PK\x03\x04 and nothing more"), "can't be read"),
        (tar_of(**{"meta.json": b"{"}), "is no JSON"),
        (tar_of(**{"meta.json": b"{}"}), "no metadata found"),
        (tar_of(**{"tls/docker/ca.pem": b""}), "no metadata found"),
        (tar_of(**{"../../.ssh/authorized_keys": b"key"}), "unexpected path"),
        (tar_of(**{"tls/docker/../../x": b""}), "unexpected path"),
        (io.BytesIO(bytes(MOST_BYTES + 1)), "larger than 10 MiB"),
    ],
)
def test_what_is_no_exported_context_is_refused(archive: io.BytesIO, words: str) -> None:
    archive.seek(0)
    with pytest.raises(CliError, match=words):
        unpack(archive)


@pytest.mark.parametrize("name", ["default", "a", "a b", "../x", "-x", ""])
def test_some_names_are_refused(name: str) -> None:
    with pytest.raises(CliError):
        check_name(name)
