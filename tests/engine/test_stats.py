"""What containers use, as docker, docker-py and our client show it."""

import re

import docker
import pytest

from support.daemon import Daemon


def test_a_sample_has_dockers_fields_and_true_numbers(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = engine.docker("run", "-d", "-m", "64m", "--pids-limit", "50", "busybox", "sleep", "60").stdout.strip()
    sample = docker_py.containers.get(box).stats(stream=False)
    assert sample["id"] == box
    assert sample["memory_stats"]["limit"] == 64 << 20
    assert 0 < sample["memory_stats"]["usage"] < 64 << 20
    assert sample["pids_stats"]["current"] == 1
    assert sample["pids_stats"]["limit"] == 50
    assert sample["precpu_stats"]["system_cpu_usage"] < sample["cpu_stats"]["system_cpu_usage"]
    assert sample["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert sample["cpu_stats"]["online_cpus"] > 0
    assert set(sample["networks"]["eth0"]) >= {"rx_bytes", "tx_bytes", "rx_dropped"}
    assert "io_service_bytes_recursive" in sample["blkio_stats"]


def test_the_stream_goes_on_until_the_container_is_removed(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    samples = docker_py.containers.get(box).stats(decode=True)
    first, second = next(samples), next(samples)
    assert second["preread"] == first["read"]
    engine.docker("rm", "-f", box)
    ended = [sample["cpu_stats"]["cpu_usage"]["total_usage"] == 0 for sample in samples]
    assert ended == sorted(ended)  # it comes to an end, and nothing follows an empty sample but empty ones


def test_one_shot_comes_at_once_and_a_stopped_container_has_an_empty_sample(engine: Daemon) -> None:
    box = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    sample = engine.json("GET", f"/containers/{box}/stats?stream=0&one-shot=1")
    assert sample["preread"] == "0001-01-01T00:00:00Z"
    engine.docker("kill", box)
    assert engine.json("GET", f"/containers/{box}/stats?stream=0")["memory_stats"] == {}
    status, body = engine.request("GET", f"/containers/{box}/stats?stream=1&one-shot=1")
    assert (status, b"cannot have stream=true and one-shot=true" in body) == (400, True)
    assert engine.request("GET", "/containers/nobody/stats")[0] == 404


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_the_table(engine: Daemon, client: str) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    lines = getattr(engine, client)("stats", "--no-stream").stdout.splitlines()
    assert re.split(r" {2,}", lines[0].strip()) == [
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ]
    assert re.match(r"[0-9a-f]{12} +box +\d+\.\d\d% +[\d.]+[KM]iB / [\d.]+[GM]iB +\d+\.\d\d% ", lines[1])
    missing = getattr(engine, client)("stats", "--no-stream", "nobody", check=False)
    assert missing.returncode == 1
    assert "No such container: nobody" in missing.stderr
