"""Files in and out of containers, as `docker cp`, docker-py and our own client move them."""

import contextlib
import io
import os
import tarfile
from pathlib import Path

import docker
import pytest

from support.daemon import Daemon
from support.docker_client import modern_docker


def pack(entries: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size, entry.uid, entry.gid, entry.mode = len(content), 1234, 4321, 0o640
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def directory(mode: int = 0o755) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, target
    return entry


@pytest.fixture(params=["running", "stopped"])
def box(request: pytest.FixtureRequest, engine: Daemon) -> str:
    verb = ("run", "-d") if request.param == "running" else ("create",)
    return engine.docker(*verb, "-v", "vol:/vol", "busybox", "sleep", "60").stdout.strip()


def test_files_go_in_and_come_out_with_owner_mode_and_links(
    engine: Daemon, docker_py: docker.DockerClient, box: str
) -> None:
    container = docker_py.containers.get(box)
    assert container.put_archive(
        "/tmp",
        pack(
            {
                "d/": directory(0o750),
                "d/file": b"content",
                "d/hard": link("d/file", tarfile.LNKTYPE),
                "d/soft": link("/tmp/d/file"),
            }
        ),
    )
    pieces, stat = container.get_archive("/tmp/d")
    assert stat["name"] == "d"
    assert stat["mode"] == (1 << 31) | 0o750
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        entries = {entry.name: entry for entry in archive}
        assert sorted(entries) == ["d", "d/file", "d/hard", "d/soft"]
        assert (entries["d/file"].uid, entries["d/file"].gid, entries["d/file"].mode) == (1234, 4321, 0o640)
        assert entries["d/hard"].islnk()
        assert entries["d/hard"].linkname == "d/file"
        assert entries["d/soft"].linkname == "/tmp/d/file"
        found = archive.extractfile("d/file")
        assert found is not None
        assert found.read() == b"content"


@pytest.mark.parametrize("client", [pytest.param("docker", marks=modern_docker), "scow"])
def test_cp_both_ways(engine: Daemon, box: str, client: str, tmp_path: Path) -> None:
    cp = getattr(engine, client)
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("inside")
    (tmp_path / "one").write_text("one")
    cp("cp", str(tmp_path / "one"), f"{box}:/tmp/renamed")
    cp("cp", str(tmp_path / "tree"), f"{box}:/tmp/new")  # does not exist: becomes the tree
    cp("cp", str(tmp_path / "tree"), f"{box}:/tmp/new")  # exists: the tree goes into it
    cp("cp", f"{tmp_path}/tree/.", f"{box}:/vol")
    cp("cp", f"{box}:/tmp/renamed", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "one"
    cp("cp", f"{box}:/tmp/new", str(tmp_path / "new"))
    assert (tmp_path / "new/sub/file").read_text() == "inside"
    assert (tmp_path / "new/tree/sub/file").read_text() == "inside"
    cp("cp", f"{box}:/vol/sub/file", str(tmp_path))
    assert (tmp_path / "file").read_text() == "inside"
    missing = cp("cp", f"{box}:/nothing", str(tmp_path), check=False)
    assert missing.returncode == 1
    assert "Could not find the file /nothing in container" in missing.stderr
    refused = cp("cp", str(tmp_path / "one"), f"{box}:/no/such/", check=False)
    assert refused.returncode == 1


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_cp_from_stdin_and_to_stdout(engine: Daemon, box: str, client: str) -> None:
    cp = getattr(engine, client)
    cp("cp", "-", f"{box}:/tmp", input=pack({"a": b"x" * 1000}))
    out = cp("cp", f"{box}:/tmp/a", "-")
    with tarfile.open(fileobj=io.BytesIO(out.stdout.encode())) as archive:
        assert archive.getnames() == ["a"]
    cp("cp", "-", f"{box}:/tmp", input=pack({"b": b"y"}, "w:gz"))
    assert "y" in cp("cp", f"{box}:/tmp/b", "-").stdout


def test_a_link_never_leads_out_of_the_container(engine: Daemon, docker_py: docker.DockerClient, box: str) -> None:
    container = docker_py.containers.get(box)
    outside = Path(engine.folder / "outside")
    outside.mkdir(exist_ok=True)
    top = {f"{str(outside)[1:]}/": directory(), "out": link(str(outside)), "up": link("../../../../../../../..")}
    container.put_archive("/", pack(top))
    assert container.put_archive("/", pack({"out/planted": b"x", "up/planted-too": b"x"}))
    assert list(outside.iterdir()) == []
    assert not Path("/planted-too").exists()
    pieces, stat = container.get_archive("/out")
    assert stat["linkTarget"] == str(outside)
    pieces, _ = container.get_archive(f"{outside}/planted")
    assert b"".join(pieces)
    refused = engine.request("PUT", f"/containers/{box}/archive?path=/tmp")
    assert refused[0] == 200  # nothing in, nothing done


def test_bad_input_is_refused_in_dockers_words(engine: Daemon, docker_py: docker.DockerClient, box: str) -> None:
    for method, path, status, words in (
        ("GET", f"/containers/{box}/archive", 400, "path"),
        ("GET", f"/containers/{box}/archive?path=/no", 404, f"Could not find the file /no in container {box}"),
        ("PUT", f"/containers/{box}/archive?path=/no", 404, f"Could not find the file /no in container {box}"),
        ("PUT", f"/containers/{box}/archive?path=/data/seed", 400, "extraction point is not a directory"),
        ("GET", "/containers/nobody/archive?path=/", 404, "No such container: nobody"),
        ("GET", "/containers/nobody/export", 404, "No such container: nobody"),
        ("HEAD", f"/containers/{box}/archive?path=/no", 404, ""),
    ):
        found, body = engine.request(method, path)
        assert (found, words in body.decode()) == (status, True), (method, path, body)
    container = docker_py.containers.get(box)
    with pytest.raises(docker.errors.APIError, match="archive/tar"):
        container.put_archive("/tmp", b"no tar " * 200)
    with pytest.raises(docker.errors.APIError, match="outside of"):
        container.put_archive("/tmp", pack({"../../escaped": b""}))


def test_a_file_does_not_replace_a_directory_unless_allowed(engine: Daemon, box: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("file")
    refused = engine.docker("cp", str(tmp_path / "data"), f"{box}:/", check=False)
    assert "cannot overwrite directory" in refused.stderr


def test_read_only_roots_and_volumes_are_not_written(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    box = engine.docker("create", "--read-only", "-v", "vol:/rw", "-v", "vol2:/ro:ro", "busybox", "true").stdout.strip()
    refused = engine.docker("cp", str(tmp_path / "file"), f"{box}:/tmp", check=False)
    assert "container rootfs is marked read-only" in refused.stderr
    refused = engine.docker("cp", str(tmp_path / "file"), f"{box}:/ro", check=False)
    assert "mounted volume is marked read-only" in refused.stderr
    engine.docker("cp", str(tmp_path / "file"), f"{box}:/rw")


def test_archive_mode_gives_files_to_the_containers_user(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = engine.docker("create", "--user", "app", "busybox", "true").stdout.strip()
    (engine.folder / "owned").write_text("x")
    engine.docker("cp", "-a", str(engine.folder / "owned"), f"{box}:/tmp")
    pieces, _ = docker_py.containers.get(box).get_archive("/tmp/owned")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        assert archive.getmembers()[0].uid == 1000


def test_what_is_mounted_over_is_exported_as_docker_does_whether_it_ran_or_not(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = engine.docker("create", "-v", f"{tmp_path}/file:/deep/file", "-v", "/vol", "-w", "/w", "busybox", "sh")
    box = made.stdout.strip()

    def exported() -> dict[str, tuple[bytes, int, str]]:
        status, data = engine.request("GET", f"/containers/{box}/export")
        assert status == 200
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {each.name: (each.type, each.mode, each.linkname) for each in archive}

    folder, file = (tarfile.DIRTYPE, 0o755, ""), (tarfile.REGTYPE, 0o755, "")
    always = {
        **dict.fromkeys(("dev", "dev/pts", "dev/shm", "etc", "proc", "sys", "w"), folder),
        **dict.fromkeys((".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"), file),
        "etc/mtab": (tarfile.SYMTYPE, 0o777, "/proc/mounts"),
    }
    assert always.items() <= exported().items()
    engine.json("POST", f"/containers/{box}/start")
    engine.json("POST", f"/containers/{box}/wait")
    assert (always | {"vol": folder, "deep": folder, "deep/file": file}).items() <= exported().items()
    changes = engine.json("GET", f"/containers/{box}/changes")
    assert {each["Path"] for each in changes} == {"/vol", "/deep", "/deep/file", "/w"}


def test_export_is_the_whole_root_file_system(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = engine.docker(
        "run", "-d", "-v", "vol:/vol", "busybox", "sh", "-c", "echo hi >/made; echo v >/vol/v; sleep 60"
    )
    container = docker_py.containers.get(box.stdout.strip())
    container.exec_run(["sh", "-c", "until test -s /vol/v; do sleep 0.05; done"])
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as archive:
        names = set(archive.getnames())
    assert {"bin", "bin/busybox", "etc/passwd", "made", "vol"} <= names
    assert "vol/v" not in names
    assert not any(name.startswith("proc/") for name in names)


def test_nothing_stays_mounted_and_no_worker_stays(engine: Daemon) -> None:
    box = engine.docker("create", "busybox", "true").stdout.strip()
    engine.request("GET", f"/containers/{box}/archive?path=/etc")
    assert f"rootfs/{box}" not in Path("/proc/mounts").read_text()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                assert box.encode() not in (entry / "cmdline").read_bytes()
            except OSError:
                continue
    assert os.path.exists(engine.socket)


def test_a_folder_that_the_container_turns_into_links_meanwhile_never_leads_out(
    engine: Daemon, docker_py: docker.DockerClient
) -> None:
    outside = engine.folder / "raced"
    outside.mkdir(exist_ok=True)
    turns = "while :; do mkdir /a/x; rm -rf /a/x; cp -a /b/x /a/x; rm /a/x; done"
    script = f"mkdir -p {outside} /a /b; ln -s {outside} /b/x; {turns}"
    box = engine.docker("run", "-d", "busybox", "sh", "-c", script).stdout.strip()
    container = docker_py.containers.get(box)
    archive = pack({f"x/{number}": b"planted" for number in range(50)})
    for _ in range(8):
        with contextlib.suppress(docker.errors.APIError):  # the container may win: then an entry has no place
            container.put_archive("/a", archive)
        with contextlib.suppress(docker.errors.APIError):
            for _ in container.get_archive("/a")[0]:
                pass
    assert list(outside.iterdir()) == []


def test_large_files_pass_through_without_filling_the_memory(engine: Daemon, tmp_path: Path) -> None:
    assert engine.process is not None
    status = Path(f"/proc/{engine.process.pid}/status")

    def peak() -> int:
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))

    box = engine.docker("create", "busybox", "true").stdout.strip()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(192 << 20)
    before = peak()
    engine.docker("cp", str(tmp_path / "large"), f"{box}:/tmp")
    engine.docker("cp", f"{box}:/tmp/large", str(tmp_path / "back"))
    assert (tmp_path / "back").stat().st_size == 192 << 20
    assert peak() - before < 48 << 10  # KiB


def test_extended_attributes_go_in_and_come_out(engine: Daemon, docker_py: docker.DockerClient, box: str) -> None:
    prefix = "SCHILY.xattr."
    file, folder = tarfile.TarInfo("d/file"), directory()
    folder.name = "d"
    capability = bytes.fromhex("0100000200040000000000000000000000000000").decode("utf-8", "surrogateescape")
    file.pax_headers = {prefix + "security.capability": capability, prefix + "user.note": "a\0\udcffb="}
    folder.pax_headers = {prefix + "user.of%3Dfolder": "x", prefix + "trusted.overlay.opaque": "y"}
    buffer = io.BytesIO()
    for entry in (folder, file):
        buffer.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    container = docker_py.containers.get(box)
    assert container.put_archive("/data", buffer.getvalue() + bytes(1024))
    for data, where in ((container.get_archive("/data/d")[0], ""), (container.export(), "data/")):
        with tarfile.open(fileobj=io.BytesIO(b"".join(data)), errors="surrogateescape") as archive:
            found = {
                entry.name: {key: value for key, value in entry.pax_headers.items() if key.startswith(prefix)}
                for entry in archive
            }
        assert found[where + "d/file"] == file.pax_headers
        assert found[where + "d"] == {prefix + "user.of%3Dfolder": "x"}
