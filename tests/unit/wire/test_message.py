"""Messages are read as Go reads them, and written without what Go would leave out."""

import json

import msgspec
import pytest

from scow.errors import InvalidArgument
from scow.wire.container import ContainerConfig, ContainerSummary, CreateRequest, Port, WaitReply
from scow.wire.exec import ExecInspect, ProcessConfig
from scow.wire.host_config import HostConfig, Mount, Ulimit
from scow.wire.message import MalformedMessage, decode, encode, to_plain
from scow.wire.network import EndpointSettings
from scow.wire.system import Info


def test_field_names_match_whatever_their_case() -> None:
    request = decode(CreateRequest, b'{"image":"x","HOSTCONFIG":{"memoryswap":4,"IPCMODE":"host"}}')
    assert request.image == "x"
    assert request.host_config is not None
    assert (request.host_config.memory_swap, request.host_config.ipc_mode) == (4, "host")


def test_null_leaves_a_plain_field_at_its_zero_value() -> None:
    request = decode(
        CreateRequest,
        b'{"Image":null,"Tty":null,"Env":null,"Labels":{"a":null},"HostConfig":{"Memory":null,"LogConfig":null}}',
    )
    assert (request.image, request.tty, request.env, request.labels) == ("", False, None, {"a": ""})
    assert request.host_config == HostConfig()


def test_null_that_means_something_is_kept() -> None:
    request = decode(
        CreateRequest,
        b'{"ExposedPorts":{"80/tcp":null},"HostConfig":{"PortBindings":{"80/tcp":null},"PidsLimit":null},'
        b'"NetworkingConfig":{"EndpointsConfig":{"net":null}}}',
    )
    assert request.exposed_ports == {"80/tcp": None}
    assert request.host_config is not None
    assert request.host_config.port_bindings == {"80/tcp": None}
    assert request.host_config.pids_limit is None
    assert request.networking_config is not None
    assert request.networking_config.endpoints_config == {"net": None}


@pytest.mark.parametrize("field", ["Cmd", "Entrypoint", "Shell"])
def test_a_command_may_be_one_string(field: str) -> None:
    request = decode(CreateRequest, json.dumps({field: "ls -l"}).encode())
    assert getattr(request, field.lower()) == ["ls -l"]


def test_unknown_fields_are_ignored() -> None:
    assert decode(CreateRequest, b'{"Whatever":[1,{"a":2}],"Image":"x"}').image == "x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b"  ", "invalid JSON: got EOF while reading request body"),
        (b"{", "invalid JSON: unexpected EOF"),
        (b'{"Image":}', "invalid JSON: invalid character"),
        (b"\xff\xfe", "invalid JSON: "),
        (b'{"Image":"\xff"}', "invalid JSON: "),
        (b"{} x", "invalid JSON: trailing characters"),
        (b"[]", "cannot unmarshal array into Go value of type CreateRequest"),
        (b"7", "cannot unmarshal number into Go value of type CreateRequest"),
        (b'{"Image":3}', "cannot unmarshal number into Go struct field CreateRequest.Image of type string"),
        (b'{"Tty":"yes"}', "cannot unmarshal string into Go struct field CreateRequest.Tty of type bool"),
        (b'{"Cmd":3}', "cannot unmarshal number into Go struct field CreateRequest.Cmd of type array"),
        (b'{"HostConfig":{"Memory":"1g"}}', "into Go struct field CreateRequest.HostConfig.Memory of type number"),
        (b'{"HostConfig":{"Binds":[1]}}', "CreateRequest.HostConfig.Binds[0] of type string"),
        (b'{"HostConfig":{"Memory":1.5}}', "CreateRequest.HostConfig.Memory of type number"),
        (b'{"HostConfig":[]}', "cannot unmarshal array into Go struct field CreateRequest.HostConfig of type object"),
        (b"[" * 100_000, "invalid JSON: exceeded max depth"),
    ],
)
def test_a_malformed_body_is_refused_naming_the_field(body: bytes, message: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode(CreateRequest, body)
    assert message in str(refusal.value)
    assert isinstance(refusal.value, InvalidArgument)


def test_empty_fields_vanish_where_go_omits_them_and_stay_elsewhere() -> None:
    plain = json.loads(encode(ContainerConfig()))
    assert "StopTimeout" not in plain
    assert "Healthcheck" not in plain
    assert plain["Env"] is None
    assert plain["OnBuild"] is None
    assert plain["Tty"] is False


def test_a_pointer_to_zero_is_no_empty_field() -> None:
    assert json.loads(encode(ContainerConfig(stop_timeout=0)))["StopTimeout"] == 0
    assert json.loads(encode(HostConfig(init=False)))["Init"] is False
    assert "Init" not in json.loads(encode(HostConfig()))


def test_sparse_messages_inside_others_leave_their_defaults_out() -> None:
    plain = json.loads(encode(HostConfig(mounts=[Mount(type="bind", source="/a", target="/b")])))
    assert plain["Mounts"] == [{"Type": "bind", "Source": "/a", "Target": "/b"}]


@pytest.mark.parametrize("message", [HostConfig(), EndpointSettings(), Info(id="x"), WaitReply(status_code=3)])
def test_to_plain_says_what_encode_says(message: msgspec.Struct) -> None:
    assert json.loads(encode(message)) == to_plain(message)


def test_a_request_survives_a_round_trip() -> None:
    body = {"Image": "x", "Cmd": ["a"], "HostConfig": {"Memory": 5, "UTSMode": "host", "OomKillDisable": False}}
    request = decode(CreateRequest, json.dumps(body).encode())
    assert decode(CreateRequest, encode(request)) == request


def test_go_s_odd_names_are_kept() -> None:
    host = json.loads(encode(HostConfig()))
    for name in ("ContainerIDFile", "UTSMode", "BlkioDeviceReadIOps", "IOMaximumIOps", "NanoCpus", "CgroupnsMode"):
        assert name in host
    endpoint = json.loads(encode(EndpointSettings()))
    for name in ("IPAMConfig", "IPAddress", "GlobalIPv6PrefixLen", "DNSNames", "NetworkID", "GwPriority"):
        assert name in endpoint


def test_a_listed_port_that_is_not_published_has_no_public_port() -> None:
    summary = ContainerSummary(
        id="a", names=["/b"], image="c", image_id="d", command="e", created=1, state="running", status="Up",
        ports=[Port(private_port=80, type="tcp")],
    )  # fmt: skip
    assert json.loads(encode([summary]))[0]["Ports"] == [{"PrivatePort": 80, "Type": "tcp"}]


def test_an_exec_that_runs_has_a_null_exit_code() -> None:
    reply = ExecInspect(
        id="a", running=True, exit_code=None, process_config=ProcessConfig(tty=False, entrypoint="sh", arguments=[]),
        open_stdin=False, open_stderr=True, open_stdout=True, can_remove=False, container_id="b", detach_keys="", pid=4,
    )  # fmt: skip
    plain = json.loads(encode(reply))
    assert plain["ExitCode"] is None
    assert plain["ProcessConfig"] == {"tty": False, "entrypoint": "sh", "arguments": []}


def test_nulls_in_lists_are_zero_values_as_in_go() -> None:
    request = decode(CreateRequest, b'{"Cmd":["a",null],"HostConfig":{"Dns":[null],"Ulimits":[null]}}')
    assert request.cmd == ["a", ""]
    assert request.host_config is not None
    assert (request.host_config.dns, request.host_config.ulimits) == ([""], [Ulimit()])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"HostConfig":{"Memory":9223372036854775808}}', "struct field CreateRequest.HostConfig.Memory"),
        (b'{"HostConfig":{"MemorySwap":-9223372036854775809}}', "struct field CreateRequest.HostConfig.MemorySwap"),
        (b'{"StopTimeout":99999999999999999999}', "struct field CreateRequest.StopTimeout"),
        (b'{"HostConfig":{"Ulimits":[{"Hard":9223372036854775808}]}}', "CreateRequest.HostConfig.Ulimits.Hard"),
    ],
)
def test_a_number_that_go_cannot_hold_is_refused(body: bytes, field: str) -> None:
    with pytest.raises(MalformedMessage, match=rf"cannot unmarshal number -?\d+ into Go.*{field} of type int64"):
        decode(CreateRequest, body)
