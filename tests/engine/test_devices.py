"""Devices by name and capability, from a file as a vendor's tool writes it, in a container."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon, Registry, folder
from support.docker_client import modern_docker
from support.machine import traces

SPEC = """
cdiVersion: "0.5.0"
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  mounts: [{{hostPath: {0}/driver, containerPath: /usr/lib/driver, options: [ro, bind]}}]
  hooks: [{{hookName: createContainer, path: /bin/sh, args: [sh, -c, "cat > {0}/hooked"]}}]
devices:
- name: "0"
  containerEdits: {{deviceNodes: [{{path: /dev/nvidia0, hostPath: /dev/null}}]}}
- name: all
  containerEdits: {{deviceNodes: [{{path: /dev/nvidia0, hostPath: /dev/null}}]}}
"""


@pytest.fixture
def gpu_engine(registry: Registry) -> Iterator[Daemon]:
    with folder() as path:
        (path / "cdi").mkdir()
        (path / "driver").write_text("a driver\n")
        (path / "cdi" / "nvidia.yaml").write_text(SPEC.format(path))
        flags = ["--registry-mirror", f"http://{registry.address}", "--cdi-spec-dir", str(path / "cdi")]
        daemon = Daemon(path, *flags).start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon
            daemon.clean()
        finally:
            daemon.stop()
        assert not traces(path)


@modern_docker
def test_gpus_are_devices_mounts_variables_and_hooks(gpu_engine: Daemon) -> None:
    script = "echo $NVIDIA_VISIBLE_DEVICES; cat /usr/lib/driver; echo x > /dev/nvidia0 && stat -c %t:%T /dev/nvidia0"
    for flags in (["--gpus", "all"], ["--gpus", "1"], ["--device", "nvidia.com/gpu=0"]):
        for client in (gpu_engine.docker, gpu_engine.scow):
            hooked = Path(gpu_engine.folder / "hooked")
            hooked.unlink(missing_ok=True)
            done = client("run", "--rm", *flags, "busybox", "sh", "-c", script)
            assert done.stdout == "void\na driver\n1:3\n"
            assert json.loads(hooked.read_text())["id"]
    done = gpu_engine.docker("run", "--rm", "--gpus", "2", "busybox", "true", check=False)
    assert (done.returncode, "unresolvable CDI devices nvidia.com/gpu=1" in done.stderr) == (125, True)


def test_without_a_driver_the_start_is_refused(engine: Daemon) -> None:
    done = engine.docker("run", "--gpus", "all", "busybox", "true", check=False)
    assert done.returncode == 125
    assert 'could not select device driver "" with capabilities: [[gpu]]' in done.stderr
