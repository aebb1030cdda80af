"""Volumes of the driver `local`: their options, their content, and who uses them."""

import io
import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from support import images
from support.calls import eventually
from support.daemon import Daemon, Registry
from support.docker_client import modern_docker

TMPFS = ("-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000,mode=0750")


def refusal(daemon: Daemon, *args: str) -> str:
    """What the client says of a command that fails."""
    done = daemon.docker(*args, check=False)
    assert done.returncode != 0
    return done.stderr


def mount_of(daemon: Daemon, name: str) -> str:
    """The line of /proc/mounts for a volume of this machine; "" if nothing is mounted there."""
    path = daemon.json("GET", f"/volumes/{name}")["Mountpoint"]
    lines = Path("/proc/mounts").read_text().splitlines()
    return next((line for line in lines if line.split()[1] == path), "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["type=tmpfs"], 'create bad: missing required option: "device"'),
        (["device=/x"], 'create bad: missing required option: "type"'),
        (["o=bind"], 'create bad: missing required option: "device"'),
        (["foo=bar"], 'create bad: invalid option: "foo"'),
        (["size=10m"], "create bad: quota size requested but no quota support"),
        (["type=cifs", "device=//host:99/x"], "create bad: port not allowed in CIFS device URL"),
    ],
)
def test_options_that_make_no_sense_are_refused(engine: Daemon, options: list[str], words: str) -> None:
    args = [part for option in options for part in ("-o", option)]
    assert words in refusal(engine, "volume", "create", *args, "bad")
    assert engine.request("GET", "/volumes/bad")[0] == 404


def test_names_that_make_no_sense_are_refused(engine: Daemon) -> None:
    assert "volume name is too short" in refusal(engine, "volume", "create", "x")
    assert '"a/b" includes invalid characters' in refusal(engine, "volume", "create", "a/b")
    assert 'plugin "nope" not found' in refusal(engine, "volume", "create", "-d", "nope", "fine")


def test_a_tmpfs_is_mounted_while_somebody_uses_it(volumes: Daemon) -> None:
    volumes.docker("volume", "create", *TMPFS, "quick")
    assert not mount_of(volumes, "quick")
    volumes.docker("run", "-d", "--name", "one", "-v", "quick:/v", "busybox", "sleep", "60")
    volumes.docker("run", "-d", "--name", "two", "-v", "quick:/v", "busybox", "sleep", "60")
    assert "tmpfs" in mount_of(volumes, "quick")
    volumes.docker("exec", "one", "touch", "/v/seen")
    assert volumes.docker("exec", "two", "ls", "/v").stdout.split() == ["seen"]
    assert volumes.docker("exec", "two", "stat", "-c", "%u %a", "/v").stdout.split() == ["1000", "750"]
    volumes.docker("rm", "-f", "one")
    assert mount_of(volumes, "quick")
    volumes.docker("rm", "-f", "two")
    assert not mount_of(volumes, "quick")


@modern_docker
def test_a_volume_can_be_a_folder_of_the_machine(volumes: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    made = ("-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind,ro")
    volumes.docker("volume", "create", *made, "folder")
    assert volumes.docker("run", "--rm", "-v", "folder:/v", "busybox", "cat", "/v/file").stdout == "mine"
    done = volumes.docker("run", "--rm", "-v", "folder:/v", "busybox", "touch", "/v/new", check=False)
    assert "Read-only file system" in done.stderr
    # Neither a removal nor a prune touches what isn't ours.
    volumes.docker("volume", "prune", "-a", "-f")
    volumes.docker("volume", "rm", "folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_mounted_is_told_at_the_start(volumes: Daemon) -> None:
    volumes.docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such", "gone")
    said = refusal(volumes, "run", "--name", "box", "-v", "gone:/v", "busybox", "true")
    path = volumes.json("GET", "/volumes/gone")["Mountpoint"]
    assert f"error while mounting volume '{path}': failed to mount local volume: mount /no/such:{path}" in said
    assert "flags: 0x1000: no such file or directory" in said
    assert volumes.json("GET", "/containers/box/json")["State"]["Status"] == "created"
    volumes.docker("volume", "create", "-o", "type=nosuchfs", "-o", "device=x", "odd")
    said = refusal(volumes, "run", "--rm", "-v", "odd:/v", "busybox", "true")
    assert "no such device (this machine's kernel has no file system nosuchfs)" in said


def test_mounts_are_found_again_after_a_kill(own_engine: Daemon) -> None:
    own_engine.docker("volume", "create", *TMPFS, "kept")
    own_engine.docker("volume", "create", *TMPFS, "left")
    own_engine.docker("run", "-d", "--name", "lives", "-v", "kept:/v", "busybox", "sleep", "600")
    own_engine.docker("run", "-d", "--name", "ends", "-v", "left:/v", "busybox", "sleep", "600")
    own_engine.docker("exec", "lives", "touch", "/v/seen")
    ends = own_engine.json("GET", "/containers/ends/json")
    own_engine.kill()
    os.kill(ends["State"]["Pid"], 9)
    eventually((own_engine.folder / "exec/exits" / ends["Id"]).exists)
    own_engine.start()
    assert mount_of(own_engine, "kept")
    assert not mount_of(own_engine, "left")
    assert own_engine.docker("run", "--rm", "-v", "kept:/v", "busybox", "ls", "/v").stdout.split() == ["seen"]
    own_engine.docker("rm", "-f", "lives")
    assert not mount_of(own_engine, "kept")


def test_labels_and_options_are_told_and_one_that_exists_keeps_its_own(volumes: Daemon) -> None:
    volumes.docker("volume", "create", "--label", "tier=db", *TMPFS, "kept")
    volumes.docker("volume", "create", "--label", "tier=web", "kept")
    found = volumes.json("GET", "/volumes/kept")
    assert found["Labels"] == {"tier": "db"}
    assert found["Options"] == {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,mode=0750"}
    assert (found["Driver"], found["Scope"]) == ("local", "local")


def test_a_mount_makes_its_volume_with_labels_and_options(volumes: Daemon) -> None:
    mount = "type=volume,src=asked,dst=/v,volume-label=tier=db,volume-opt=type=tmpfs,volume-opt=device=tmpfs"
    shown = volumes.docker("run", "--rm", "--mount", mount, "busybox", "mount").stdout
    assert "tmpfs on /v type tmpfs" in shown
    found = volumes.json("GET", "/volumes/asked")
    assert (found["Labels"], found["Options"]) == ({"tier": "db"}, {"type": "tmpfs", "device": "tmpfs"})


@modern_docker
def test_removal_is_refused_with_the_names_of_the_users(volumes: Daemon) -> None:
    users = [volumes.docker("create", "-v", "used:/v", "busybox").stdout.strip() for _ in range(2)]
    said = refusal(volumes, "volume", "rm", "used")
    assert "remove used: volume is in use - [" in said
    assert all(user in said for user in users)
    assert "volume is in use" in refusal(volumes, "volume", "rm", "-f", "used")
    assert "get nothing: no such volume" in refusal(volumes, "volume", "rm", "nothing")


def test_listing_by_filters(volumes: Daemon) -> None:
    volumes.docker("volume", "create", "--label", "tier=db", "--label", "mine", "alpha")
    volumes.docker("volume", "create", "--label", "tier=web", "--label", "mine", "beta")
    volumes.docker("create", "-v", "beta:/v", "busybox")

    def listed(**filters: list[str]) -> set[str]:
        wanted = quote(json.dumps({"label": ["mine"], **filters}))
        return {volume["Name"] for volume in volumes.json("GET", f"/volumes?filters={wanted}")["Volumes"]}

    assert listed() == {"alpha", "beta"}
    assert listed(dangling=["true"]) == {"alpha"}
    assert listed(dangling=["0"]) == {"beta"}
    assert listed(name=["lph"]) == {"alpha"}
    assert listed(driver=["local"]) == {"alpha", "beta"}
    assert listed(driver=["other"]) == set()
    assert listed(label=["mine", "tier=web"]) == {"beta"}
    for filters in ({"dangling": ["maybe"]}, {"nonsense": ["1"]}):
        status, answer = volumes.request("GET", f"/volumes?filters={quote(json.dumps(filters))}")
        assert (status, b"invalid filter" in answer) == (400, True)


def test_sizes_and_references_are_counted(volumes: Daemon) -> None:
    volumes.docker(
        "run", "--name", "box", "-v", "full:/v", "busybox", "dd", "if=/dev/zero", "of=/v/x", "bs=1000", "count=5"
    )
    volumes.docker("create", "-v", "full:/v:ro", "busybox")
    volumes.docker("volume", "create", *TMPFS, "elsewhere")
    usage = {volume["Name"]: volume["UsageData"] for volume in volumes.json("GET", "/system/df")["Volumes"]}
    assert usage["full"] == {"Size": 5000, "RefCount": 2}
    assert "elsewhere" not in usage


def test_updates_are_for_clusters(volumes: Daemon) -> None:
    volumes.docker("volume", "create", "plain")
    status, answer = volumes.request("PUT", "/volumes/plain?version=1", {"Spec": {}})
    assert status == 503
    assert "volume update only valid for cluster volumes" in json.loads(answer)["message"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vol:/x:shared", "field BindOptions must not be specified"),
        ("/tmp:/x:nocopy", "field VolumeOptions must not be specified"),
        ("vol:/x:ro,rw", "invalid mode: ro,rw"),
        ("vol:/x:ro,ro", "invalid mode: ro,ro"),
        ("vol:/x:z,Z", "invalid mode: z,Z"),
        ("vol:/x:,ro", "invalid mode: ,ro"),
        ("vol:x", "invalid mount config for type \"volume\": invalid mount path: 'x' mount path must be absolute"),
        ("vol:/", "destination can't be '/'"),
        ("v:/x", "volume name is too short"),
        ("a*b:/x", "includes invalid characters for a local volume name"),
    ],
)
def test_what_makes_no_sense_for_a_volume_is_refused(engine: Daemon, spec: str, words: str) -> None:
    status, answer = engine.request("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Binds": [spec]}})
    assert (status, words in json.loads(answer)["message"]) == (400, True), answer


def test_a_volume_that_cannot_be_made_is_none(engine: Daemon) -> None:
    assert engine.request("POST", "/volumes/create", {"Name": "x" * 256})[0] == 400
    assert "x" * 256 not in str(engine.json("GET", "/volumes"))
    assert "x" * 256 not in str(engine.json("GET", "/system/df?type=volume"))


# --- what the image has


def stocked_layer() -> bytes:
    """A folder with an owner, modes, links and an attribute of its own."""

    def entry(name: str, kind: bytes, mode: int, uid: int, gid: int, link: str = "") -> tarfile.TarInfo:
        found = tarfile.TarInfo(name)
        found.type, found.mode, found.uid, found.gid, found.linkname = kind, mode, uid, gid, link
        return found

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry("stock", tarfile.DIRTYPE, 0o750, 1000, 1001))
        tool = entry("stock/tool", tarfile.REGTYPE, 0o4755, 1000, 50)
        tool.size, tool.pax_headers = 5, {"SCHILY.xattr.user.note": "kept"}
        tar.addfile(tool, io.BytesIO(b"hello"))
        tar.addfile(entry("stock/twin", tarfile.LNKTYPE, 0o4755, 1000, 50, "stock/tool"))
        tar.addfile(entry("stock/link", tarfile.SYMTYPE, 0o777, 0, 0, "tool"))
    return stream.getvalue()


@pytest.fixture(scope="session")
def stocked(registry: Registry) -> str:
    """An image with that folder, over busybox."""
    images.push(
        registry.address, "library/stocked", images.build([images.tar(images.busybox_files()), stocked_layer()])
    )
    return "stocked"


CONTENT = "stat -c '%n %u:%g %a %h' /stock /stock/tool /stock/twin && readlink /stock/link && cat /stock/tool"
EXPECTED = "/stock 1000:1001 750 2\n/stock/tool 1000:50 4755 2\n/stock/twin 1000:50 4755 2\ntool\nhello"


def test_a_fresh_volume_gets_what_the_image_has(volumes: Daemon, stocked: str) -> None:
    volumes.docker("pull", "-q", stocked)
    volumes.docker("create", "--name", "box", "-v", "fresh:/stock", stocked)
    path = Path(volumes.json("GET", "/volumes/fresh")["Mountpoint"])
    assert sorted(entry.name for entry in path.iterdir()) == ["link", "tool", "twin"]  # at the creation already
    assert os.getxattr(path / "tool", "user.note") == b"kept"
    assert volumes.docker("run", "--rm", "-v", "fresh:/stock", stocked, "sh", "-c", CONTENT).stdout == EXPECTED
    (path / "tool").write_text("changed")
    assert volumes.docker("run", "--rm", "-v", "fresh:/stock", stocked, "cat", "/stock/tool").stdout == "changed"


def test_nocopy_and_mounts_elsewhere_leave_a_volume_empty(volumes: Daemon, stocked: str) -> None:
    volumes.docker("pull", "-q", stocked)
    volumes.docker("create", "-v", "first:/stock:nocopy", stocked)
    volumes.docker("create", "--mount", "src=second,dst=/stock,volume-nocopy", stocked)
    volumes.docker("create", "-v", "third:/elsewhere", stocked)
    for name in ("first", "second", "third"):
        assert not list(Path(volumes.json("GET", f"/volumes/{name}")["Mountpoint"]).iterdir())


def test_two_containers_at_once_fill_a_volume_once(volumes: Daemon, stocked: str) -> None:
    volumes.docker("pull", "-q", stocked)
    seen: list[str] = []

    def run() -> None:
        seen.append(volumes.docker("run", "--rm", "-v", "raced:/stock", stocked, "sh", "-c", CONTENT).stdout)

    racers = [threading.Thread(target=run) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert seen == [EXPECTED] * 4


def test_anonymous_volumes_go_with_their_container(volumes: Daemon) -> None:
    def anonymous() -> list[str]:
        return [each["Name"] for each in volumes.json("GET", "/volumes")["Volumes"] or [] if len(each["Name"]) == 64]

    before = anonymous()
    volumes.docker("run", "--rm", "-v", "/v", "-v", "named:/n", "busybox", "true")
    assert anonymous() == before
    volumes.docker("create", "--name", "box", "-v", "/v", "busybox")
    (name,) = set(anonymous()) - set(before)
    assert volumes.json("GET", f"/volumes/{name}")["Labels"] == {"com.docker.volume.anonymous": ""}
    volumes.docker("create", "--name", "other", "--volumes-from", "box", "busybox")
    volumes.docker("rm", "-v", "box")
    assert name in anonymous()  # the other one uses it
    volumes.docker("rm", "-v", "other")
    assert anonymous() == before
    assert volumes.request("GET", "/volumes/named")[0] == 200


def test_volumes_of_another_container(volumes: Daemon, tmp_path: Path) -> None:
    volumes.docker("create", "--name", "box", "-v", "shared:/v", "-v", f"{tmp_path}:/b", "busybox")
    shown = volumes.docker(
        "run", "--rm", "--volumes-from", "box:ro", "busybox", "sh", "-c", "touch /v/x || touch /b/x", check=False
    )
    assert shown.stderr.count("Read-only file system") == 2
    volumes.docker("run", "--rm", "--volumes-from", "box", "busybox", "touch", "/v/x", "/b/x")
    assert (tmp_path / "x").exists()
    assert "invalid mode: nonsense" in refusal(volumes, "create", "--volumes-from", "box:nonsense", "busybox")


# --- parts of volumes and images


@modern_docker
def test_a_part_of_a_volume_is_mounted(volumes: Daemon) -> None:
    volumes.docker("run", "--rm", "-v", "whole:/v", "busybox", "sh", "-c", "mkdir -p /v/a/b && echo deep > /v/a/b/file")
    part = "src=whole,dst=/p,volume-subpath=a/b"
    assert volumes.docker("run", "--rm", "--mount", part, "busybox", "cat", "/p/file").stdout == "deep\n"
    one = "src=whole,dst=/p,volume-subpath=a/b/file"
    assert volumes.docker("run", "--rm", "--mount", one, "busybox", "cat", "/p").stdout == "deep\n"
    assert "no such file or directory" in refusal(
        volumes, "run", "--rm", "--mount", "src=whole,dst=/p,volume-subpath=no", "busybox", "true"
    )


@modern_docker
@pytest.mark.parametrize("target", ["/etc", "../../../..", "a/../../.."])
def test_a_part_never_leads_out_of_its_volume(volumes: Daemon, target: str) -> None:
    volumes.docker("run", "--rm", "-v", "trap:/v", "busybox", "sh", "-c", f"mkdir /v/a; ln -s {target} /v/out")
    said = refusal(volumes, "run", "--rm", "--mount", "src=trap,dst=/p,volume-subpath=out", "busybox", "true")
    assert "path concatenation escapes the base directory" in said
    for path in ("../x", "/etc"):
        said = refusal(volumes, "create", "--mount", f"src=trap,dst=/p,volume-subpath={path}", "busybox")
        assert "subpath must be a relative path within the volume" in said


@modern_docker
def test_an_image_is_mounted_read_only_and_kept(volumes: Daemon, stocked: str) -> None:
    volumes.docker("pull", "-q", stocked)
    mounts = (
        "--mount",
        f"type=image,src={stocked},dst=/all",
        "--mount",
        f"type=image,src={stocked},dst=/part,image-subpath=stock",
    )
    volumes.docker(
        "create", "--name", "box", *mounts, "busybox", "sh", "-c", "cat /all/stock/tool /part/tool; touch /part/x"
    )
    done = volumes.docker("start", "-a", "box", check=False)
    assert done.stdout == "hellohello"
    assert "Read-only file system" in done.stderr
    assert "conflict" in refusal(volumes, "rmi", stocked)
    (mount, _) = volumes.json("GET", "/containers/box/json")["Mounts"]
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == ("image", stocked, "/all", False)
    volumes.docker("rm", "box")
    volumes.docker("rmi", stocked)
    status, answer = volumes.request(
        "POST",
        "/containers/create",
        {"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "image", "Source": "gone", "Target": "/x"}]}},
    )
    assert (status, b"No such image: gone" in answer) == (400, True)


@modern_docker
def test_a_mounted_image_lives_through_a_kill(own_engine: Daemon) -> None:
    own_engine.docker(
        "run", "-d", "--name", "box", "--mount", "type=image,src=busybox,dst=/i", "busybox", "sleep", "600"
    )
    own_engine.kill()
    own_engine.start()
    assert own_engine.docker("exec", "box", "/i/bin/echo", "here").stdout == "here\n"
    own_engine.docker("restart", "-t", "0", "box")
    assert own_engine.docker("exec", "box", "/i/bin/echo", "here").stdout == "here\n"


# --- archives


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_a_volume_goes_out_and_in_as_a_tar(volumes: Daemon, tmp_path: Path) -> None:
    volumes.docker(
        "run", "--rm", "-v", "from:/v", "busybox", "sh", "-c", "mkdir /v/d && echo hi > /v/d/f && chmod 600 /v/d/f"
    )
    volumes.scow("volume", "export", "-o", str(tmp_path / "out.tar"), "from")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {name.removeprefix("./") for name in tar.getnames()} >= {"d", "d/f"}
    for source in ("file", "input"):
        volumes.docker("volume", "create", source)
        if source == "file":
            volumes.scow("volume", "import", source, str(tmp_path / "out.tar"))
        else:
            packed = subprocess.run(["gzip", "-c", str(tmp_path / "out.tar")], capture_output=True, check=True).stdout
            volumes.scow("volume", "import", source, "-", input=packed)
        shown = volumes.docker(
            "run", "--rm", "-v", f"{source}:/v", "busybox", "sh", "-c", "cat /v/d/f; stat -c %a /v/d/f"
        )
        assert shown.stdout == "hi\n600\n"
    assert "no such volume" in volumes.scow("volume", "export", "nothing", check=False).stderr
    volumes.docker("volume", "create", *TMPFS, "elsewhere")
    assert volumes.scow("volume", "export", "elsewhere").returncode == 0


def test_a_hostile_tar_stays_inside(volumes: Daemon, tmp_path: Path) -> None:
    volumes.docker("volume", "create", "target")
    link = tarfile.TarInfo("out")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    through, above, absolute = (tarfile.TarInfo(name) for name in ("out/x", "../../x", f"{tmp_path}/y"))
    for members in ([(link, b""), (through, b"1")], [(above, b"2")], [(absolute, b"3")]):
        volumes.scow("volume", "import", "target", input=tar_of(*members), check=False)
    assert not list(tmp_path.iterdir())
    path = Path(volumes.json("GET", "/volumes/target")["Mountpoint"])
    assert not (path.parent / "x").exists()
    assert not (path.parent.parent / "x").exists()
    assert volumes.scow("volume", "import", "target", input=b"no tar at all" * 100, check=False).returncode != 0


def test_files_are_copied_from_volumes_of_stopped_containers(volumes: Daemon, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("mine")
    made = ("-o", "type=none", "-o", f"device={tmp_path}/folder", "-o", "o=bind")
    volumes.docker("volume", "create", *made, "bound")
    volumes.docker("create", "--name", "box", "-v", "bound:/v", "busybox")
    # To the reply's very end: docker's own client hangs up when it has seen the archive's.
    status, archive = volumes.request("GET", "/containers/box/archive?path=/v/file")
    assert (status, b"mine" in archive) == (200, True)
    assert not mount_of(volumes, "bound")
