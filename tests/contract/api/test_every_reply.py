"""What holds for every reply: versions, headers, errors, odd requests."""

import json
from urllib.parse import quote

import pytest
from tests.contract.api.client import Server

IDENTITY = {
    "Api-Version": "1.50",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": "Docker/28.2.2 (linux)",
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.50"])
async def test_ping_tells_who_answers(server: Server, method: str, prefix: str) -> None:
    reply = await server.ask(method, f"{prefix}/_ping")
    assert reply.status == 200
    assert reply.body == (b"OK" if method == "GET" else b"")
    assert reply.headers["Content-Length"] == ("2" if method == "GET" else "0")
    expected = {
        **IDENTITY,
        "Builder-Version": "1",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
    }
    assert {name: reply.headers[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("path", "status"),
    [("/version", 200), ("/containers/nope/json", 404), ("/nope", 404), ("/v1.1/info", 400), ("/swarm", 503)],
)
async def test_every_reply_carries_the_identity(server: Server, path: str, status: int) -> None:
    reply = await server.ask("GET", path)
    assert reply.status == status
    assert {name: reply.headers[name] for name in IDENTITY} == IDENTITY


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.41", "1.50", "1.50.0"])
async def test_versions_from_1_24_to_1_50_are_served(server: Server, version: str) -> None:
    assert (await server.ask("GET", f"/v{version}/info")).status == 200


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a "
            "newer version",
        ),
        ("1.51", "client version 1.51 is too new. Maximum supported API version is 1.50"),
        ("2.0", "client version 2.0 is too new. Maximum supported API version is 1.50"),
    ],
)
async def test_other_versions_are_refused_in_docker_s_words(server: Server, version: str, message: str) -> None:
    reply = await server.ask("GET", f"/v{version}/info")
    assert (reply.status, reply.message) == (400, message)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nope"),
        ("GET", "/v1.41/nope"),
        ("GET", "/vx/info"),
        ("DELETE", "/info"),
        ("POST", "/v1.41/containers/json"),
        ("POST", "/session"),
        ("POST", "/grpc"),
    ],
)
async def test_an_unknown_path_or_method_is_no_page(server: Server, method: str, path: str) -> None:
    reply = await server.ask(method, path)
    assert (reply.status, reply.json) == (404, {"message": "page not found"})


async def test_an_error_is_json_without_a_charset(server: Server) -> None:
    reply = await server.ask("GET", "/containers/nope/json")
    assert reply.status == 404
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {"message": "No such container: nope"}


async def test_a_result_is_json_without_a_charset(server: Server) -> None:
    reply = await server.ask("GET", "/version")
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json["ApiVersion"] == "1.50"


async def test_a_fault_of_ours_is_a_500_with_its_text(server: Server) -> None:
    reply = await server.ask("POST", "/containers/create", b'{"Image":"broken"}')
    assert (reply.status, reply.message) == (500, "the disk is on fire")


async def test_any_host_name_is_accepted(server: Server) -> None:
    assert (await server.ask("GET", "/_ping", headers={"Host": "api.moby.localhost"})).status == 200


async def test_a_connection_serves_many_requests(server: Server) -> None:
    connection = await server.connect()
    for _ in range(3):
        assert (await connection.ask("GET", "/version")).status == 200
        assert (await connection.ask("GET", "/containers/nope/json")).status == 404


async def test_options_are_answered(server: Server) -> None:
    assert (await server.ask("OPTIONS", "/v1.41/containers/json")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/swarm", 503),
        ("GET", "/services", 503),
        ("GET", "/v1.40/nodes/self", 503),
        ("POST", "/secrets/create", 503),
        ("DELETE", "/configs/x", 503),
        ("POST", "/swarm/leave", 503),
        ("POST", "/swarm/init", 501),
    ],
)
async def test_there_is_no_swarm(server: Server, method: str, path: str, status: int) -> None:
    reply = await server.ask(method, path)
    assert reply.status == status
    if status == 503 and "leave" not in path:
        assert reply.message.startswith("This node is not a swarm manager.")


async def test_there_are_no_checkpoints(server: Server) -> None:
    for method, path in (
        ("GET", "/containers/box/checkpoints"),
        ("POST", "/containers/box/checkpoints"),
        ("DELETE", "/containers/box/checkpoints/one"),
        ("POST", "/containers/box/start?checkpoint=one"),
    ):
        reply = await server.ask(method, path)
        assert (reply.status, "checkpoints of containers are not supported" in reply.message) == (501, True)


async def test_there_are_no_plugins(server: Server) -> None:
    assert (await server.ask("GET", "/plugins")).json == []
    assert (await server.ask("GET", "/plugins/x/json")).status == 404
    for method, path in (
        ("GET", "/plugins/privileges?remote=x"),
        ("POST", "/plugins/pull?remote=x"),
        ("POST", "/plugins/some/one/enable"),
        ("DELETE", "/plugins/some/one"),
    ):
        reply = await server.ask(method, path)
        assert (reply.status, "no managed plugins" in reply.message) == (501, True)


CREATE = "/containers/create"


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"", {}, 400, "invalid JSON: got EOF while reading request body"),
        (b"{", {}, 400, "invalid JSON: unexpected EOF"),
        (b'{"Image":', {}, 400, "invalid JSON: unexpected EOF"),
        (b"{}", {}, 400, "config cannot be empty in order to create a container"),
        (b"null", {}, 400, "invalid JSON"),
        (b'{"HostConfig":{}}', {}, 400, "config cannot be empty in order to create a container"),
        (b'{"Image":7}', {}, 400, "invalid JSON: json: cannot unmarshal number into Go struct field"),
        (b'{"Image":"x","HostConfig":{"Memory":"1g"}}', {}, 400, "HostConfig.Memory of type number"),
        (b'{"Image":"x"}', {"Content-Type": "text/plain"}, 400, "unsupported Content-Type header (text/plain)"),
        (b'{"Image":"x"}', {"Content-Type": ""}, 400, "malformed Content-Type header (): mime: no media type"),
        (b'{"Image":"missing"}', {}, 404, "No such image: missing:latest"),
        (b'{"Image":"x"}', {"Content-Type": "application/json; charset=utf-8"}, 201, None),
        (b'{"image":"x","cmd":"ls","HostConfig":null}', {}, 201, None),
    ],
)
async def test_a_bad_body_is_refused(
    server: Server, body: bytes, headers: dict[str, str], status: int, message: str | None
) -> None:
    reply = await server.ask("POST", CREATE, body, headers)
    assert reply.status == status
    if message is not None:
        assert message in reply.message


async def test_a_huge_body_is_refused_before_it_is_read(server: Server) -> None:
    reply = await server.ask("POST", CREATE, None, {"Content-Type": "application/json", "Content-Length": str(1 << 40)})
    assert reply.status == 413


async def test_a_huge_chunked_body_is_refused(server: Server) -> None:
    connection = await server.connect()
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    await connection.send("POST", CREATE, headers=headers)
    piece = b" " * (1 << 20)
    try:
        for _ in range(18):
            connection.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await connection.writer.drain()
    except ConnectionError:
        pass  # the server had enough
    assert (await connection.head()).status == 413


async def test_long_filters_and_headers_are_read(server: Server) -> None:
    labels = {"label": {f"key{i}={'v' * 50}": True for i in range(500)}}
    reply = await server.ask(
        "GET", "/containers/json?filters=" + quote(json.dumps(labels)), headers={"X-Registry-Auth": "A" * 60_000}
    )
    assert reply.status == 200
    ((_, options),) = server.engine.containers.calls
    assert isinstance(options, dict)
    assert len(options["filters"]["label"]) == 500


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ("{}", {}),
        ('{"label":{"a=b":true,"c":true}}', {"label": ["a=b", "c"]}),
        ('{"label":["a=b","c"],"status":["exited"]}', {"label": ["a=b", "c"], "status": ["exited"]}),
    ],
)
async def test_filters_come_in_two_shapes(server: Server, text: str, filters: dict[str, list[str]]) -> None:
    assert (await server.ask("GET", f"/containers/json?filters={quote(text)}")).status == 200
    assert server.engine.containers.calls[-1][1]["filters"] == filters


@pytest.mark.parametrize("text", ["x", "[]", '{"a":1}', '{"a":{"b":"c"}}', "7"])
async def test_other_filters_are_refused(server: Server, text: str) -> None:
    reply = await server.ask("GET", f"/containers/json?filters={quote(text)}")
    assert (reply.status, reply.message) == (400, "invalid filter")
