"""Many images, many layers, large layers. Nothing here is timed: figures stand in the notes of the change."""

import asyncio
import os
from pathlib import Path

from support import images, many_images
from support.daemon import Daemon, Registry, folder
from support.machine import traces

IMAGES, LAYERS = 60, 10


def test_an_engine_with_many_images_lists_them_and_is_whole(registry: Registry) -> None:
    with folder() as path:
        asyncio.run(many_images.fill(path / "data", IMAGES, LAYERS))
        engine = Daemon(path, "--registry-mirror", f"http://{registry.address}").start()
        try:
            listed = engine.json("GET", "/images/json?shared-size=1")
            assert len(listed) == IMAGES
            assert {each["Labels"]["number"] for each in listed} == {str(number) for number in range(IMAGES)}
            assert all(0 < each["SharedSize"] < each["Size"] for each in listed)
            usage = engine.json("GET", "/system/df?type=image")
            # Two of ten layers are shared by ten images each.
            assert (
                usage["LayersSize"]
                == sum(e["Size"] - e["SharedSize"] for e in listed) + sum(e["SharedSize"] for e in listed) // 10
            )
            assert len(engine.scow("images").stdout.splitlines()) == IMAGES + 1
            assert "all is as it should be" in engine.scow("system", "check", "--store").stdout
            open_files = os.listdir(f"/proc/{engine.process.pid}/fd") if engine.process else []
            assert len(open_files) < 100
        finally:
            engine.stop()
        assert not traces(path)


def test_an_image_of_127_layers_runs(registry: Registry, engine: Daemon) -> None:
    base = images.tar(images.busybox_files())
    layers = [base, *(images.tar({f"layer-{number}": b"here", "last": str(number).encode()}) for number in range(126))]
    images.push(registry.address, "library/tall", images.build(layers))
    engine.docker("pull", "-q", "tall")
    said = engine.docker("run", "--rm", "tall", "sh", "-c", "ls / | grep -c layer-; cat /last").stdout
    assert said == "126\n125"
    found = engine.scow("image", "explore", "tall").stdout
    assert "127 layers" in found
    engine.docker("rmi", "tall")


def memory_peaks_kib(pid: int) -> list[int]:
    """The peaks of a process and of all below it, as far as they live."""
    found = []
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += memory_peaks_kib(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def test_a_large_layer_is_pulled_in_bounded_memory(registry: Registry, own_engine: Daemon) -> None:
    images.push(registry.address, "library/large", images.build([images.tar({"zeros": bytes(400 << 20)})]))
    own_engine.docker("pull", "-q", "large")
    assert own_engine.process is not None
    peaks = memory_peaks_kib(own_engine.process.pid)
    assert max(peaks) < 200 << 10
    own_engine.docker("rmi", "large")


def test_a_layer_of_many_files_is_pulled_in_bounded_memory(registry: Registry, own_engine: Daemon) -> None:
    files = {f"folder-{number // 500}/file-{number}": b"x" for number in range(8_000)}
    images.push(registry.address, "library/crowd", images.build([images.tar(files)]))
    own_engine.docker("pull", "-q", "crowd")
    assert own_engine.process is not None
    assert max(memory_peaks_kib(own_engine.process.pid)) < 200 << 10
    assert " 8016 " in own_engine.scow("image", "explore", "crowd").stdout  # with the folders
