"""Device files: which devices requests mean, and what devices change in config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from scow.runtime.cdi import NoDeviceDriver, Registry, UnknownDevices, apply
from scow.wire.host_config import DeviceRequest

NVIDIA = """
cdiVersion: "0.5.0"
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  hooks:
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache]}
  mounts:
  - {hostPath: /usr/lib/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, nosuid, nodev, bind]}
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, hostPath: /dev/null}
    - {path: /dev/x, type: c, major: 7, minor: 8, permissions: r}
    additionalGids: [44]
- name: "1"
  containerEdits: {deviceNodes: [{path: /dev/nvidia1, hostPath: /dev/zero}]}
- name: all
  containerEdits: {env: [ALL=1]}
"""
OTHER = {"cdiVersion": "0.6.0", "kind": "acme.org/net", "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}]}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "nvidia.yaml").write_text(NVIDIA)
    (tmp_path / "other.json").write_text(json.dumps(OTHER))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "broken.json").write_text("{")
    return Registry([str(tmp_path / "nosuch"), str(tmp_path)])


GPU = [["gpu"]]


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (DeviceRequest(driver="cdi", device_ids=["acme.org/net=a"]), ["acme.org/net=a"]),
        (DeviceRequest(count=-1, capabilities=GPU), ["nvidia.com/gpu=all"]),
        (DeviceRequest(count=2, capabilities=GPU), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]),
        (DeviceRequest(driver="nvidia", device_ids=["1"]), ["nvidia.com/gpu=1"]),
    ],
)
def test_requests_mean_devices(registry: Registry, request_: DeviceRequest, names: list[str]) -> None:
    assert registry.select([request_]) == names


def test_what_nobody_can_give(registry: Registry) -> None:
    with pytest.raises(NoDeviceDriver, match=r'could not select device driver "" with capabilities: \[\[tpu x\]\]'):
        registry.select([DeviceRequest(count=1, capabilities=[["tpu", "x"]])])
    with pytest.raises(NoDeviceDriver, match=r'driver "amd"'):
        registry.select([DeviceRequest(driver="amd", count=1, capabilities=GPU)])
    with pytest.raises(UnknownDevices, match=r"unresolvable CDI devices nvidia\.com/gpu=7"):
        registry.edits(["nvidia.com/gpu=0", "nvidia.com/gpu=7"])
    assert len(registry.problems) == 1


def test_devices_change_a_container(registry: Registry) -> None:
    spec: dict[str, Any] = {
        "process": {"env": ["NVIDIA_VISIBLE_DEVICES=all", "B=2"], "user": {"additionalGids": [5]}},
        "linux": {"devices": [], "resources": {"devices": []}},
        "mounts": [],
    }
    apply(registry.edits(["nvidia.com/gpu=0", "nvidia.com/gpu=all"]), spec)
    assert spec["process"] == {
        "env": ["B=2", "NVIDIA_VISIBLE_DEVICES=void", "ALL=1"],
        "user": {"additionalGids": [5, 44]},
    }
    null, plain = spec["linux"]["devices"]
    assert (null["path"], null["type"], null["major"], null["minor"]) == ("/dev/nvidia0", "c", 1, 3)
    assert plain == {"path": "/dev/x", "type": "c", "major": 7, "minor": 8}
    assert spec["linux"]["resources"]["devices"] == [
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": True, "type": "c", "major": 7, "minor": 8, "access": "r"},
    ]
    assert [mount["options"] for mount in spec["mounts"]] == [["ro", "nosuid", "nodev", "bind"]]
    hook = {"path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "update-ldcache"]}
    assert spec["hooks"] == {"createContainer": [hook]}


def test_a_later_folder_overrides(tmp_path: Path, registry: Registry) -> None:
    later = tmp_path / "later"
    later.mkdir()
    changed = {**OTHER, "devices": [{"name": "a", "containerEdits": {"env": ["A=2"]}}]}
    (later / "other.json").write_text(json.dumps(changed))
    found = Registry([str(tmp_path), str(later)]).edits(["acme.org/net=a"])
    assert [edit.env for edit in found] == [None, ["A=2"]]
