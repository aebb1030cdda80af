"""What the container, image, network, volume and system endpoints hand to the engine, and how they answer."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from tests.contract.api.client import Server
from tests.contract.api.double import ID, IMAGE_ID


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"all": False, "limit": None, "size": False}),
        ("all=1&size=1&limit=3", {"all": True, "limit": 3, "size": True}),
        ("all=True&size=False&limit=-1", {"all": True, "limit": None, "size": False}),  # docker-py's words
        ("since=a&before=b", {"filters": {"since": ["a"], "before": ["b"]}}),
    ],
)
async def test_listing_containers(server: Server, query: str, expected: dict[str, Any]) -> None:
    assert (await server.ask("GET", f"/containers/json?{query}")).json == []
    options: Any = server.engine.containers.calls[0][1]
    assert {key: options[key] for key in expected} == expected


async def test_a_limit_that_is_no_number_is_refused(server: Server) -> None:
    assert (await server.ask("GET", "/containers/json?limit=x")).status == 400


async def test_the_life_of_a_container(server: Server) -> None:
    created = await server.ask("POST", "/containers/create?name=box", b'{"Image":"busybox","Labels":null}')
    assert (created.status, created.json) == (201, {"Id": ID, "Warnings": []})
    again = await server.ask("POST", "/containers/create?name=box", b'{"Image":"busybox"}')
    assert again.status == 409
    for path, status in [
        ("start", 204),
        ("start", 304),
        ("stop?t=1", 204),
        ("stop", 304),
        ("restart", 204),
        ("pause", 204),
        ("unpause", 204),
        ("resize?h=1&w=2", 200),
        ("kill?signal=INT", 204),
        ("rename?name=other", 204),
    ]:
        reply = await server.ask("POST", f"/containers/box/{path}")
        assert (path, reply.status, reply.body) == (path, status, b"")
    assert (await server.ask("GET", "/containers/other/json")).json["Name"] == "/other"
    assert (await server.ask("GET", "/containers/other/top?ps_args=aux")).json["Titles"] == ["PID", "CMD"]
    removed = await server.ask("DELETE", "/containers/other?force=1&v=1&link=0")
    assert (removed.status, removed.body) == (204, b"")
    assert server.engine.containers.calls[-1] == ("remove", {"force": True, "volumes": True, "link": False})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "json"),
        ("POST", "start"),
        ("POST", "stop"),
        ("POST", "restart"),
        ("POST", "kill"),
        ("POST", "rename?name=x"),
        ("POST", "pause"),
        ("POST", "unpause"),
        ("POST", "wait"),
        ("POST", "attach"),
        ("GET", "logs?stdout=1"),
        ("POST", "resize?h=1&w=1"),
        ("GET", "top"),
        ("DELETE", ""),
    ],
)
async def test_a_container_that_is_not_there_is_named(server: Server, method: str, path: str) -> None:
    reply = await server.ask(method, f"/containers/nope/{path}".rstrip("/"))
    assert reply.status == 404
    assert reply.message.endswith("No such container: nope")


async def test_killing_what_doesn_t_run_says_what_was_tried(server: Server) -> None:
    server.engine.box()
    reply = await server.ask("POST", "/containers/box/kill")
    assert reply.status == 409
    assert reply.message == f"cannot kill container: box: container {ID} is not running"


@pytest.mark.parametrize("body", [b'{"Binds":["/a:/b"]}'])
async def test_a_start_with_a_body_is_refused(server: Server, body: bytes) -> None:
    server.engine.box()
    reply = await server.ask("POST", "/containers/box/start", body)
    assert (reply.status, reply.message) == (
        400,
        "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
    )


async def test_a_start_with_an_empty_object_is_not(server: Server) -> None:
    server.engine.box()
    assert (await server.ask("POST", "/containers/box/start", b"{}")).status == 204


@pytest.mark.parametrize(("version", "signal"), [("1.41", None), ("1.42", "INT")])
@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_a_stop_has_a_signal_from_1_42(server: Server, verb: str, version: str, signal: str | None) -> None:
    server.engine.box()
    await server.ask("POST", f"/v{version}/containers/box/{verb}?signal=INT&t=-1")
    assert server.engine.containers.calls == [(verb, (-1, signal))]


@pytest.mark.parametrize("query", ["h=1", "w=1", "h=x&w=1", ""])
async def test_a_size_needs_two_numbers(server: Server, query: str) -> None:
    server.engine.box()
    assert (await server.ask("POST", f"/containers/box/resize?{query}")).status == 400


@pytest.mark.parametrize(("version", "platform"), [("1.40", None), ("1.41", "linux/arm64")])
async def test_a_creation_has_a_platform_from_1_41(server: Server, version: str, platform: str | None) -> None:
    path = f"/v{version}/containers/create?platform=linux%2Farm64"
    assert (await server.ask("POST", path, b'{"Image":"x"}')).status == 201
    _, (_, name, got) = server.engine.containers.calls[0]
    assert (name, got) == (None, platform)


@pytest.mark.parametrize(
    ("version", "host", "field", "value"),
    [
        ("1.24", {"AutoRemove": True}, "auto_remove", False),
        ("1.25", {"AutoRemove": True}, "auto_remove", True),
        ("1.39", {}, "ipc_mode", "shareable"),
        ("1.40", {}, "ipc_mode", ""),
        ("1.41", {"ConsoleSize": [1, 2]}, "console_size", [0, 0]),
        ("1.42", {"ConsoleSize": [1, 2]}, "console_size", [1, 2]),
        ("1.41", {"KernelMemory": 5}, "kernel_memory", 5),
        ("1.42", {"KernelMemory": 5}, "kernel_memory", 0),
        ("1.42", {"Annotations": {"a": "b"}}, "annotations", None),
        ("1.43", {"Annotations": {"a": "b"}}, "annotations", {"a": "b"}),
        ("1.50", {"PidsLimit": -1}, "pids_limit", None),
        ("1.50", {"PidsLimit": 5}, "pids_limit", 5),
    ],
)
async def test_a_creation_means_what_it_meant_in_its_version(
    server: Server, version: str, host: dict[str, Any], field: str, value: object
) -> None:
    body = json.dumps({"Image": "x", "HostConfig": host}).encode()
    assert (await server.ask("POST", f"/v{version}/containers/create", body)).status == 201
    _, (request, _, _) = server.engine.containers.calls[0]
    assert getattr(request.host_config, field) == value


@pytest.mark.parametrize(
    ("version", "mount", "message"),
    [
        ("1.50", {"Type": "bind", "VolumeOptions": {}}, 'VolumeOptions must not be specified on mount type "bind"'),
        ("1.50", {"Type": "tmpfs", "BindOptions": {}}, 'BindOptions must not be specified on mount type "tmpfs"'),
        ("1.43", {"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": True}}, "needs API v1.44 or newer"),
        ("1.44", {"Type": "volume", "VolumeOptions": {"Subpath": "x"}}, "needs API v1.45 or newer"),
        ("1.41", {"Type": "bind", "VolumeOptions": {}}, None),
    ],
)
async def test_mounts_that_a_version_couldn_t_express(
    server: Server, version: str, mount: dict[str, Any], message: str | None
) -> None:
    body = json.dumps({"Image": "x", "HostConfig": {"Mounts": [mount]}}).encode()
    reply = await server.ask("POST", f"/v{version}/containers/create", body)
    if message is None:
        assert reply.status == 201
    else:
        assert reply.status == 400
        assert message in reply.message


@pytest.mark.parametrize(("version", "status"), [("1.43", 400), ("1.44", 201)])
async def test_several_networks_at_once_need_1_44(server: Server, version: str, status: int) -> None:
    body = b'{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"a":null,"b":{}}}}'
    assert (await server.ask("POST", f"/v{version}/containers/create", body)).status == status


# --- replies of older versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "there"), [("1.45", False), ("1.46", True)])
async def test_listed_annotations_came_with_1_46(server: Server, version: str, there: bool) -> None:
    server.engine.box()
    reply = await server.ask("GET", f"/v{version}/containers/json")
    assert ("Annotations" in reply.json[0]["HostConfig"]) is there


@pytest.mark.parametrize(("version", "aliases"), [("1.44", ["web", ID[:12], "box"]), ("1.45", ["web"])])
async def test_aliases_held_the_short_id_before_1_45(server: Server, version: str, aliases: list[str]) -> None:
    server.engine.box()
    reply = await server.ask("GET", f"/v{version}/containers/box/json")
    assert reply.json["NetworkSettings"]["Networks"]["mine"]["Aliases"] == aliases


async def test_a_size_is_told_only_if_asked_for(server: Server) -> None:
    server.engine.box()
    assert "SizeRw" not in (await server.ask("GET", "/containers/box/json")).json
    assert (await server.ask("GET", "/containers/box/json?size=1")).json["SizeRw"] == 5


@pytest.mark.parametrize(
    ("version", "tags", "virtual"),
    [("1.42", ["<none>:<none>"], True), ("1.43", [], True), ("1.44", [], False)],
)
async def test_listed_images_over_the_versions(server: Server, version: str, tags: list[str], virtual: bool) -> None:
    (image,) = (await server.ask("GET", f"/v{version}/images/json")).json
    assert image["RepoTags"] == tags
    assert ("VirtualSize" in image) is virtual


async def test_inspected_images_over_the_versions(server: Server) -> None:
    new = (await server.ask("GET", "/v1.50/images/x/json")).json
    assert "VirtualSize" not in new
    assert "ContainerConfig" not in new
    assert "Hostname" not in new["Config"]
    old = (await server.ask("GET", "/v1.40/images/x/json")).json
    assert old["VirtualSize"] == 7
    assert old["Created"] == "0001-01-01T00:00:00Z"
    assert old["Config"]["Hostname"] == ""
    assert old["Config"]["Cmd"] == ["sh"]
    assert old["ContainerConfig"]["Cmd"] is None


async def test_info_over_the_versions(server: Server) -> None:
    new = (await server.ask("GET", "/info")).json
    assert "BridgeNfIptables" not in new
    assert new["Runtimes"]["crun"]["status"] == {"a": "b"}
    assert new["RuncCommit"] == {"ID": "abc"}
    old = (await server.ask("GET", "/v1.24/info")).json
    assert old["SecurityOptions"] == ["seccomp", "cgroupns"]
    assert old["KernelVersion"] == "<unknown>"
    assert "status" not in old["Runtimes"]["crun"]
    assert old["BridgeNfIptables"] is False
    assert old["RuncCommit"] == {"ID": "abc", "Expected": "abc"}


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["busybox", "busybox:1.0", "docker.io/library/busybox", "r:5000/a/b/json:x", IMAGE_ID])
async def test_an_image_s_name_may_hold_slashes_and_colons(server: Server, ref: str) -> None:
    for path in (f"/images/{ref}/json", f"/v1.41/images/{ref.replace('/', '%2F')}/json"):
        assert (await server.ask("GET", path)).status == 200
        assert server.engine.images.calls[-1] == ("inspect", ref)
    await server.ask("GET", f"/images/{ref}/history")
    assert server.engine.images.calls[-1] == ("history", ref)


async def test_an_image_that_is_not_there(server: Server) -> None:
    reply = await server.ask("GET", "/images/missing/json")
    assert (reply.status, reply.message) == (404, "No such image: missing:latest")


async def test_an_image_is_tagged_and_removed(server: Server) -> None:
    tagged = await server.ask("POST", "/images/a/b:c/tag?repo=r%2Fx&tag=1")
    assert (tagged.status, tagged.body) == (201, b"")
    assert server.engine.images.calls[-1] == ("tag", ("a/b:c", "r/x", "1"))
    removed = await server.ask("DELETE", "/images/a/b:c?force=1&noprune=1")
    assert removed.json == [{"Untagged": "a:b"}, {"Deleted": IMAGE_ID}]
    assert server.engine.images.calls[1:] == [("remove", ("a/b:c", True, False))]


async def test_an_image_without_a_name_is_refused(server: Server) -> None:
    reply = await server.ask("DELETE", "/images/%20")
    assert (reply.status, reply.message) == (400, "image name cannot be blank")


@pytest.mark.parametrize(("version", "filters"), [("1.40", {"reference": ["busy*"]}), ("1.41", {})])
async def test_an_old_filter_became_a_reference(server: Server, version: str, filters: dict[str, Any]) -> None:
    await server.ask("GET", f"/v{version}/images/json?filter={quote('busy*')}")
    options: Any = server.engine.images.calls[0][1]
    assert options["filters"] == filters


# --- networks, volumes, credentials -----------------------------------------------------------------------------------


async def test_networks(server: Server) -> None:
    (network,) = (await server.ask("GET", "/networks")).json
    assert (await server.ask("GET", "/networks/bridge")).json == network
    assert (network["Name"], network["EnableIPv4"], network["IPAM"]["Driver"]) == ("bridge", True, "")
    reply = await server.ask("GET", "/networks/nope")
    assert (reply.status, reply.message) == (404, "network nope not found")


async def test_volumes(server: Server) -> None:
    assert (await server.ask("GET", "/volumes")).json == {"Volumes": [], "Warnings": None}
    created = await server.ask("POST", "/volumes/create", b'{"Name":"v","Labels":{"a":"b"}}')
    assert (created.status, created.json["Labels"]) == (201, {"a": "b"})
    assert (await server.ask("GET", "/volumes/v")).json == created.json
    assert (await server.ask("DELETE", "/volumes/v?force=1")).status == 204
    assert (await server.ask("GET", "/volumes/v")).status == 404


async def test_a_volume_needs_no_body(server: Server) -> None:
    assert (await server.ask("POST", "/volumes/create")).status == 201


async def test_credentials_are_checked(server: Server) -> None:
    right = await server.ask("POST", "/auth", b'{"username":"u","password":"right","serveraddress":"r"}')
    assert (right.status, right.json) == (200, {"Status": "Login Succeeded"})
    assert (await server.ask("POST", "/auth", b'{"username":"u","password":"wrong"}')).status == 400


async def test_disk_usage(server: Server) -> None:
    usage = (await server.ask("GET", "/system/df")).json
    assert usage == {"LayersSize": 1, "Images": [], "Containers": [], "Volumes": [], "BuildCache": []}
    assert (await server.ask("GET", "/v1.41/system/df")).json["BuilderSize"] == 0
    some = (await server.ask("GET", "/system/df?type=image&type=volume")).json
    assert some == {"LayersSize": 0, "Images": [], "Containers": None, "Volumes": [], "BuildCache": None}
    # Before 1.42 the parameter meant nothing.
    assert (await server.ask("GET", "/v1.41/system/df?type=image")).json["Containers"] == []


async def test_every_byte_of_the_data_root(server: Server) -> None:
    usage = (await server.ask("GET", "/scow/system/df")).json
    part = {"Name": "layers", "Files": 1, "Size": 1, "About": ""}
    assert usage == {"Root": "/r", "Total": 1, "Parts": [part], "Images": []}
