"""`scow image explore` and `scow image diff`."""

import json
import tarfile
from typing import Any

import pytest

from support import images
from support.daemon import Daemon, Registry, folder
from support.machine import traces


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


BASE = {
    "etc/": b"",
    "etc/config": b"x" * 1000,
    "etc/gone": b"y" * 2000,
    "lib/": b"",
    "lib/one": b"1" * 300,
    "lib/two": b"2" * 400,
    "odd": "etc/config",
    "kept": b"kept",
    "twin": member("twin", tarfile.LNKTYPE, linkname="kept"),
}
MIDDLE = {"etc/": b"", "etc/config": b"z" * 1000, "etc/.wh.gone": b"", "new": b"n" * 50}
TOP = {"lib/": b"", "lib/.wh..wh..opq": b"", "lib/two": b"2" * 400}


@pytest.fixture(scope="module", params=["erofs", "overlay2"])
def engine(request: pytest.FixtureRequest, registry: Registry) -> Any:
    layers = [images.tar(each) for each in (BASE, MIDDLE, TOP)]  # type: ignore[arg-type]  # mixed values
    images.push(registry.address, "library/three", images.build(layers))
    images.push(registry.address, "library/one", images.build(layers[:1]))
    changed = {
        **BASE,
        "etc/config": b"x" * 999 + b"!",
        "lib/one": member("lib/one", size=0, mode=0o600, uid=7, gid=8, mtime=5),
        "odd": "etc/other",
        "kept": member("kept", tarfile.FIFOTYPE, mode=0o755, mtime=1_700_000_000),
        "twin": b"kept",
    }
    del changed["lib/two"]
    changed["lib/three"] = b"3"
    images.push(registry.address, "library/changed", images.build([images.tar(changed)]))  # type: ignore[arg-type]  # as above
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}", "-s", str(request.param)).start()
        try:
            for name in ("one", "three", "changed"):
                daemon.docker("pull", "-q", name)
            yield daemon
        finally:
            daemon.stop()
        assert not traces(path)


def test_each_layer_is_told_with_what_it_changes_and_wastes(engine: Daemon) -> None:
    found = json.loads(engine.scow("image", "explore", "three", "--json", "--files").stdout)
    base, middle, top = found["Layers"]
    assert [layer["CreatedBy"] for layer in found["Layers"]] == ["layer 0", "layer 1", "layer 2"]
    assert (base["Added"], base["Changed"], base["Removed"]) == (9, 0, 0)
    assert (middle["Added"], middle["Changed"], middle["Removed"]) == (1, 1, 1)
    assert (top["Added"], top["Changed"], top["Removed"]) == (0, 1, 1)
    # Hidden of the base: config and gone by the second layer, both libraries by the third.
    assert (base["Wasted"], middle["Wasted"], top["Wasted"]) == (1000 + 2000 + 300 + 400, 0, 0)
    assert base["Content"] == 1000 + 2000 + 300 + 400 + 4
    assert found["Wasted"] == base["Wasted"]
    assert found["WastedFiles"][0] == {"Path": "/etc/gone", "Copies": 1, "Size": 2000}
    told = {(change["Path"], change["Kind"]) for change in middle["Files"]}
    assert told == {("/etc/config", "changed"), ("/etc/gone", "removed"), ("/new", "added")}
    told = {(change["Path"], change["Kind"]) for change in top["Files"]}
    assert told == {("/lib/one", "removed"), ("/lib/two", "changed")}


def test_the_table_is_for_people(engine: Daemon) -> None:
    said = engine.scow("image", "explore", "three").stdout
    assert said.startswith("LAYER ")
    assert "layer 1" in said
    assert "efficiency" in said
    assert "/etc/gone" in said


def test_two_images_are_compared_file_by_file(engine: Daemon) -> None:
    found = json.loads(engine.scow("image", "diff", "one", "changed", "--json").stdout)
    told = {each["Path"]: (each["Kind"], each.get("What")) for each in found}
    assert told == {
        "/etc/config": ("changed", ["content"]),
        "/kept": ("changed", ["type"]),
        "/lib/one": ("changed", ["mode", "owner", "size", "content"]),
        "/lib/three": ("added", None),
        "/lib/two": ("removed", None),
        "/odd": ("changed", ["target"]),
    }
    said = engine.scow("image", "diff", "one", "changed").stdout.splitlines()
    assert "A /lib/three  (1B)" in said
    assert "C /odd  (target etc/config -> etc/other)" in said
    assert "D /lib/two  (400B)" in said
    times = json.loads(engine.scow("image", "diff", "one", "changed", "--json", "--times").stdout)
    assert "time" in next(each["What"] for each in times if each["Path"] == "/lib/one")


def test_an_image_is_equal_to_itself_and_differs_by_its_layers(engine: Daemon) -> None:
    assert engine.scow("image", "diff", "three", "three").stdout == ""
    found = json.loads(engine.scow("image", "diff", "one", "three", "--json").stdout)
    told = {each["Path"]: each["Kind"] for each in found}
    # What was written again as it was is no difference.
    assert told == {"/etc/config": "changed", "/etc/gone": "removed", "/lib/one": "removed", "/new": "added"}


def test_what_is_unknown_is_refused(engine: Daemon) -> None:
    done = engine.scow("image", "explore", "nothing", check=False)
    assert (done.returncode, "No such image: nothing:latest" in done.stderr) == (1, True)
    status, said = engine.request("GET", "/scow/images/diff?from=one")
    assert (status, b"the parameter to is needed" in said) == (400, True)
