"""Containers, execs, images and events through docker-py, high and low level."""

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.utils.socket import frames_iter

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def test_run_gives_the_output_and_raises_for_failures(docker_py: docker.DockerClient) -> None:
    assert docker_py.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
    assert docker_py.containers.run("busybox", ["sh", "-c", "echo e >&2"], stderr=True, remove=True) == b"e\n"
    assert b"".join(docker_py.containers.run("busybox", "seq 3", stream=True)) == b"1\n2\n3\n"
    with pytest.raises(ContainerError) as failure:
        docker_py.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"])
    assert (failure.value.exit_status, failure.value.stderr) == (3, b"bad\n")
    with pytest.raises(APIError, match="executable file not found"):
        docker_py.containers.run("busybox", "nosuch")
    with pytest.raises(ImageNotFound):
        docker_py.containers.create("nosuch:never")
    with pytest.raises(NotFound, match="No such container: nosuch"):
        docker_py.containers.get("nosuch")


def test_the_life_of_a_container(docker_py: docker.DockerClient) -> None:
    box = docker_py.containers.run("busybox", "sleep 60", detach=True, name="box", labels={"a": "b"}, init=True)
    assert (box.status, box.labels) == ("created", {"a": "b"})
    box.reload()
    assert (box.status, box.image.tags) == ("running", ["busybox:latest"])
    assert [each.id for each in docker_py.containers.list(filters={"label": "a=b"})] == [box.id]
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.rename("bin")
    assert docker_py.containers.get("bin").id == box.id
    assert box.top()["Processes"]
    box.restart(timeout=0)
    box.stop(timeout=0)
    assert box.wait()["StatusCode"] in {137, 143}  # the init may pass SIGTERM on before SIGKILL comes
    with pytest.raises(APIError) as refusal:
        box.kill()
    assert refusal.value.status_code == 409
    box.remove(v=True)
    assert docker_py.containers.list(all=True) == []


def test_logs(docker_py: docker.DockerClient) -> None:
    box = docker_py.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2; echo end"], detach=True)
    box.wait()
    assert box.logs(stderr=False) == b"out\nend\n"
    assert box.logs(stdout=False) == b"err\n"
    assert box.logs(tail=1) in (b"end\n", b"err\n")  # which comes last is the order of two pipes
    assert b"".join(box.logs(stream=True, follow=True, stderr=False)) == b"out\nend\n"
    assert box.logs(stderr=False, timestamps=True).count(b"Z ") == 2


def test_commands_inside(docker_py: docker.DockerClient) -> None:
    box = docker_py.containers.run("busybox", "sleep 60", detach=True)
    assert box.exec_run("echo hi") == (0, b"hi\n")
    both = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert box.exec_run(both, demux=True) == (3, (b"out\n", b"err\n"))
    assert b"".join(box.exec_run("seq 3", stream=True).output) == b"1\n2\n3\n"
    assert box.exec_run("id -un", user="app").output == b"app\n"
    assert box.exec_run("pwd", workdir="/data").output == b"/data\n"
    assert box.exec_run(["sh", "-c", "echo $A"], environment={"A": "1"}).output == b"1\n"
    assert box.exec_run("tty", tty=True).output.startswith(b"/dev/pts/")
    assert not box.exec_run("true", detach=True).output
    assert box.exec_run("nosuch").exit_code == 127


def test_a_socket_to_a_command(docker_py: docker.DockerClient) -> None:
    box = docker_py.containers.run("busybox", "sleep 60", detach=True)
    _, stream = box.exec_run("cat", stdin=True, socket=True)
    stream._sock.sendall(b"through\n")
    stream._sock.shutdown(1)
    assert list(frames_iter(stream, tty=False)) == [(1, b"through\n")]
    stream._sock.close()


def test_the_low_level_exec_api(docker_py: docker.DockerClient) -> None:
    api = docker_py.api
    box = docker_py.containers.run("busybox", "sleep 60", detach=True)
    id = api.exec_create(box.id, ["sh", "-c", "exit 5"], environment=["A=b"])["Id"]
    assert (api.exec_inspect(id)["Running"], api.exec_inspect(id)["ExitCode"]) == (False, None)
    assert api.exec_start(id) == b""
    found = api.exec_inspect(id)
    assert (found["ExitCode"], found["ContainerID"], found["ProcessConfig"]["entrypoint"]) == (5, box.id, "sh")
    with pytest.raises(APIError) as refusal:
        api.exec_start(id)
    assert refusal.value.status_code == 409


def test_images(docker_py: docker.DockerClient) -> None:
    image = docker_py.images.pull("hello-world", tag="latest")
    assert image.tags == ["hello-world:latest"]
    assert docker_py.images.get("hello-world").id == image.id
    assert image.tag("renamed", tag="1")
    assert {each.id for each in docker_py.images.list(name="renamed")} == {image.id}
    assert docker_py.images.list(filters={"reference": "renamed:*"})[0].id == image.id
    assert image.history()[0]["Id"] == image.id
    docker_py.images.remove("renamed:1")
    with pytest.raises(ImageNotFound):
        docker_py.images.get("renamed:1")
    lines = list(docker_py.api.push("nosuch", tag="x", stream=True, decode=True))
    assert lines[-1]["error"] == "An image does not exist locally with the tag: nosuch"


def test_events(docker_py: docker.DockerClient) -> None:
    events = docker_py.events(decode=True, filters={"type": "container", "event": ["create", "die"]})
    docker_py.containers.run("busybox", "true", name="box")
    found = [next(events), next(events)]
    events.close()
    assert [each["Action"] for each in found] == ["create", "die"]
    assert found[1]["Actor"]["Attributes"]["exitCode"] == "0"


def test_the_engine_itself(docker_py: docker.DockerClient) -> None:
    assert docker_py.ping()
    assert docker_py.version()["ApiVersion"] == "1.50"
    assert docker_py.info()["OSType"] == "linux"
    docker_py.containers.run("busybox", "true", volumes=["counted:/data"])
    found = docker_py.df()
    assert found["Images"]
    (volume,) = [each for each in found["Volumes"] if each["Name"] == "counted"]
    assert volume["UsageData"] == {"Size": 5, "RefCount": 1}
