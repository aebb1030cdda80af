"""What a container is made of: the request, completed by its image, and docker's checks."""

import re
from pathlib import Path

import pytest

from scow.engine.config import KEYS, InvalidConfig, make_config, read_config_file
from scow.engine.merging import NoCommand, arguments, merge_config
from scow.engine.mounts import InvalidMount, parse_bind, parse_mount, parse_volumes_from, resolve_mounts
from scow.engine.names import InvalidName, check_name, random_name
from scow.engine.record import MountRecord
from scow.engine.system import without_password
from scow.engine.validation import check_request, parse_host_ports, parse_port
from scow.errors import InvalidArgument
from scow.linux.signals import parse_signal
from scow.oci.image_config import ExecConfig, Healthcheck
from scow.wire.container import ContainerConfig, HealthConfig
from scow.wire.host_config import BindOptions, HostConfig, Mount, RestartPolicy, TmpfsOptions, Ulimit

DOCUMENT = Path(__file__).parents[3] / "docs" / "engine.md"


@pytest.mark.parametrize(
    ("asked", "image", "args"),
    [
        ({}, {"cmd": ["a"]}, ("a",)),
        ({}, {"entrypoint": ["e"], "cmd": ["a"]}, ("e", "a")),
        ({"cmd": ["b"]}, {"entrypoint": ["e"], "cmd": ["a"]}, ("e", "b")),
        ({"entrypoint": ["x"]}, {"entrypoint": ["e"], "cmd": ["a"]}, ("x",)),
        ({"entrypoint": ["x"], "cmd": ["b"]}, {"entrypoint": ["e"], "cmd": ["a"]}, ("x", "b")),
        ({"entrypoint": [""], "cmd": ["b"]}, {"entrypoint": ["e"], "cmd": ["a"]}, ("b",)),
        ({"entrypoint": [], "cmd": ["b"]}, {"entrypoint": ["e"]}, ("b",)),
    ],
)
def test_the_command_comes_from_request_and_image_by_dockers_rule(
    asked: dict[str, list[str]], image: dict[str, list[str]], args: tuple[str, ...]
) -> None:
    assert arguments(merge_config(ContainerConfig(**asked), ExecConfig(**image))) == args  # type: ignore[arg-type]  # tables


def test_a_container_without_command_is_refused() -> None:
    with pytest.raises(NoCommand, match="no command specified"):
        arguments(merge_config(ContainerConfig(entrypoint=["", ""][:1]), ExecConfig(cmd=["a"])))


def test_variables_of_the_request_win_over_the_images() -> None:
    merged = merge_config(ContainerConfig(env=["A=1", "C"]), ExecConfig(env=["A=0", "B=2", "C=3"]))
    assert merged.env == ["A=1", "C", "B=2"]


def test_labels_ports_and_volumes_are_joined() -> None:
    merged = merge_config(
        ContainerConfig(labels={"a": "1"}, exposed_ports={"80": {}}, volumes={"/x": {}}),
        ExecConfig(labels={"a": "0", "b": "2"}, exposed_ports={"53/udp": {}}, volumes={"/y": {}}),
    )
    assert merged.labels == {"a": "1", "b": "2"}
    assert set(merged.exposed_ports or {}) == {"80/tcp", "53/udp"}
    assert set(merged.volumes or {}) == {"/x", "/y"}


def test_a_healthcheck_takes_what_it_leaves_open_from_the_image() -> None:
    merged = merge_config(
        ContainerConfig(healthcheck=HealthConfig(retries=5)),
        ExecConfig(healthcheck=Healthcheck(test=["CMD", "x"], interval=7)),
    )
    assert merged.healthcheck == HealthConfig(test=["CMD", "x"], interval=7, retries=5)


@pytest.mark.parametrize(
    ("spec", "kind", "source", "destination", "rw"),
    [
        ("/a:/b", "bind", "/a", "/b", True),
        ("/a/../c:/b/:ro", "bind", "/c", "/b", False),
        ("name:/b", "volume", "name", "/b", True),
        ("name:/b:ro,nocopy", "volume", "name", "/b", False),
        ("/b", "volume", "", "/b", True),
    ],
)
def test_a_bind_is_read_as_docker_reads_it(spec: str, kind: str, source: str, destination: str, rw: bool) -> None:
    mount = parse_bind(spec, "")
    assert (mount.type, mount.source or mount.name, mount.destination, mount.rw) == (kind, source, destination, rw)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("/a:b", "must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b:wrong", "invalid mode: wrong"),
        ("/a:/b:ro,rw", "invalid mode"),
        ("a:b:c:d", "invalid volume specification"),
        (":/b", "invalid volume specification"),
        ("../x:/b", "If you intended to pass a host directory, use absolute path"),
    ],
)
def test_a_bind_that_makes_no_sense_is_refused(spec: str, words: str) -> None:
    with pytest.raises(InvalidMount, match=words):
        parse_bind(spec, "")


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount(type="bind", source="/nowhere/at/all", target="/x"), "bind source path does not exist: /nowhere/at/all"),
        (Mount(type="bind", target="/x"), "field Source must not be empty"),
        (Mount(type="bind", source="/tmp", target=""), "field Target must not be empty"),
        (Mount(type="bind", source="rel", target="/x"), "mount path must be absolute"),
        (Mount(type="volume", target="x"), "mount path must be absolute"),
        (Mount(type="tmpfs", source="/a", target="/x"), "field Source must not be specified"),
        (Mount(type="tmpfs", target="/x", bind_options=BindOptions()), "field BindOptions must not be specified"),
        (Mount(type="odd", target="/x"), "mount type unknown"),
    ],
)
def test_a_mount_that_makes_no_sense_is_refused_by_field(mount: Mount, words: str) -> None:
    with pytest.raises(InvalidMount, match=words):
        parse_mount(mount)


def test_a_tmpfs_carries_its_size_and_mode() -> None:
    mount = parse_mount(Mount(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o700)))
    assert mount.options == ("size=4096", "mode=700")


def test_volumes_of_others_are_named_with_a_mode() -> None:
    assert parse_volumes_from("c1") == ("c1", False)
    assert parse_volumes_from("c1:ro,z") == ("c1", True)
    for spec, words in (
        ("", "cannot be an empty string"),
        ("c1:nocopy", "invalid mode: nocopy"),
        ("c1:ro,rw", "invalid mode: ro,rw"),
        ("c1:", "invalid mode: "),
    ):
        with pytest.raises(InvalidMount, match=words):
            parse_volumes_from(spec)


def test_a_tmpfs_is_never_everything() -> None:
    for path, words in (("/", "destination can't be '/'"), ("rel", "mount path must be absolute")):
        with pytest.raises(InvalidMount, match=words):
            resolve_mounts(ContainerConfig(), HostConfig(tmpfs={path: ""}), ())


def test_two_mounts_at_one_place_are_refused(tmp_path: Path) -> None:
    host = HostConfig(binds=[f"{tmp_path}:/x"], tmpfs={"/x": ""})
    with pytest.raises(InvalidMount, match="Duplicate mount point: /x"):
        resolve_mounts(ContainerConfig(), host, ())


def test_what_is_asked_for_hides_inherited_mounts_and_image_volumes() -> None:
    inherited = [MountRecord(type="bind", source="/old", destination="/x")]
    found = resolve_mounts(ContainerConfig(volumes={"/x": {}, "/v": {}}), HostConfig(binds=["/new:/x"]), inherited)
    assert [(mount.destination, mount.source) for mount in found if mount.type == "bind"] == [("/x", "/new")]
    anonymous = [mount for mount in found if mount.type == "volume"]
    assert [mount.destination for mount in anonymous] == ["/v"]
    assert len(anonymous[0].name) == 64


def test_outer_mounts_come_before_inner_ones() -> None:
    found = resolve_mounts(ContainerConfig(), HostConfig(binds=["/1:/a/b/c", "/2:/a", "/3:/a/b"]), ())
    assert [mount.destination for mount in found] == ["/a", "/a/b", "/a/b/c"]


@pytest.mark.parametrize(
    ("config", "host", "words"),
    [
        ({}, {"memory": 1000}, "Minimum memory limit allowed is 6MB"),
        ({}, {"memory": 10 << 20, "memory_swap": 7 << 20}, "Minimum memoryswap limit"),
        ({}, {"memory_swap": 7 << 20}, "always set the Memory limit"),
        ({}, {"nano_cpus": 10**9, "cpu_quota": 5000}, "Nano CPUs and CPU Quota"),
        ({}, {"nano_cpus": 10**13}, "range of CPUs is from 0.01"),
        ({}, {"cpu_period": 10}, "CPU cfs period"),
        ({}, {"cpuset_cpus": "999"}, "CPUs are not available"),
        ({}, {"oom_score_adj": 5000}, "range for oom score adj"),
        ({}, {"ulimits": [Ulimit(name="nofile", soft=5, hard=1)]}, "soft limit must be less than or equal"),
        ({}, {"restart_policy": RestartPolicy(name="sometimes")}, "unknown policy 'sometimes'"),
        ({}, {"restart_policy": RestartPolicy(name="always", maximum_retry_count=2)}, "only be used with 'on-failure'"),
        ({}, {"restart_policy": RestartPolicy(name="always"), "auto_remove": True}, "can't create 'AutoRemove'"),
        ({"hostname": "h"}, {"network_mode": "container:x"}, "conflicting options: hostname and the network mode"),
        ({}, {"pid_mode": "private"}, "invalid PID mode: private"),
        ({}, {"ipc_mode": "container:"}, "invalid IPC mode"),
        ({}, {"cgroupns_mode": "x"}, "invalid cgroup namespace mode"),
        ({"env": ["=x"]}, {}, "invalid environment variable: =x"),
        ({"working_dir": "rel"}, {}, "needs to be an absolute path"),
        ({"stop_signal": "SIGNONE"}, {}, "invalid signal: SIGNONE"),
        ({"healthcheck": HealthConfig(interval=1)}, {}, "Interval in Healthcheck cannot be less than 1ms"),
    ],
)
def test_values_out_of_range_are_refused_in_dockers_words(
    config: dict[str, object], host: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_request(ContainerConfig(**config), HostConfig(**host), None)  # type: ignore[arg-type]  # tables


@pytest.mark.parametrize(("text", "number"), [("KILL", 9), ("SIGKILL", 9), ("9", 9), ("sigterm", 15), ("RTMIN+3", 37)])
def test_a_signal_has_several_spellings(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "99", "SIGFOO", "RTMIN+99", "-1"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        parse_signal(text)


def test_ports_are_read_with_their_protocol_and_ranges() -> None:
    assert parse_port("80") == (80, "tcp")
    assert parse_port("53/UDP") == (53, "udp")
    assert parse_host_ports("8000-8010") == (8000, 8010)
    for wrong in ("0", "x/tcp", "70000/tcp", "80/icmp"):
        with pytest.raises(InvalidArgument, match="invalid port specification"):
            parse_port(wrong)


@pytest.mark.parametrize("name", ["a", "-ab", "a b", "a/b", ""])
def test_a_name_that_breaks_dockers_rule_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match=r"only \[a-zA-Z0-9\]\[a-zA-Z0-9_.-\] are allowed"):
        check_name(name)


def test_random_names_avoid_those_that_are_taken() -> None:
    taken: set[str] = set()
    for _ in range(200):
        name = random_name(taken.__contains__)
        assert name not in taken
        assert check_name(name) == name
        taken.add(name)


def test_a_key_in_file_and_flags_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"log-level": "debug", "registry-mirrors": ["http://m"]}')
    read = read_config_file(file, required=True)
    assert make_config({}, read).registry_mirrors == ("http://m",)
    with pytest.raises(InvalidConfig, match=r"log-level: \(from flag: info, from file: debug\)"):
        make_config({"log_level": "info"}, read)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"nope": 1}', "don't match any configuration option: nope"),
        ("[]", "not a JSON object"),
        ("{", "Expecting"),
        ('{"bip": "\xe9"}', "can't decode byte 0xe9"),
    ],
)
def test_a_configuration_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidConfig, match=words):
        read_config_file(file, required=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"iptables": false}', "iptables: False can't be honoured"),
        ('{"authorization-plugins": ["x"]}', "use --tlsverify"),
        ('{"rootless": true}', "needs root"),
        ('{"exec-opts": "native.cgroupdriver=systemd"}', "exec-opts: .* it is a list of NAME=VALUE"),
        ('{"default-shm-size": "big"}', "default-shm-size: invalid size: 'big'"),
    ],
)
def test_what_guards_a_machine_is_never_passed_over(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=words):
        read_config_file(file, required=True)


def test_keys_without_effect_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"raw-logs": true, "iptables": true, "exec-opts": ["native.cgroupdriver=systemd"]}')
    assert read_config_file(file, required=True) == {}
    assert [message.partition(": ")[2].partition(" has")[0] for message in caplog.messages] == [
        "raw-logs",
        "exec-opts: native.cgroupdriver=systemd",
    ]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"max_concurrent_downloads": -1}, "engine: max-concurrent-downloads: Expected `int` >= 0"),
        ({"max_download_attempts": 0}, "engine: max-download-attempts: Expected `int` >= 1"),
        ({"runtimes": {"x": {"path": 1}}}, r"engine: runtimes\[...\].path: Expected `str`, got `int`"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_key(keys: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        make_config({}, keys)


def test_every_key_is_documented_and_every_documented_key_is_there() -> None:
    text = DOCUMENT.read_text()
    table = text[text.index("| about |") : text.index("Scow's own")]
    documented = set(re.findall(r"`([a-z0-9-]+)`", re.sub(r" \([^)]*\)", "", table)))
    assert documented == KEYS.keys()


@pytest.mark.parametrize("version", ["1.23", "1.51", "2.0", "new", "1.", "1.4x"])
def test_the_oldest_version_is_one_that_is_served(version: str) -> None:
    assert make_config({}, {"min_api_version": "1.44"}).min_api_version == "1.44"
    with pytest.raises(InvalidConfig, match="min-api-version"):
        make_config({}, {"min_api_version": version})


def test_proxies_come_from_the_file_and_then_from_the_environment() -> None:
    environment = {"HTTP_PROXY": "http://a:1", "http_proxy": "http://other", "https_proxy": "http://b:2"}
    proxies = make_config({}, {"proxies": {"https-proxy": "http://c:3"}}, environment).proxies
    assert (proxies.http_proxy, proxies.https_proxy, proxies.no_proxy) == ("http://a:1", "http://c:3", "")


def test_shown_proxies_keep_their_passwords() -> None:
    assert without_password("http://user:secret@proxy:3128") == "http://xxxxx:xxxxx@proxy:3128"
    assert without_password("http://proxy:3128") == "http://proxy:3128"
    assert without_password("") == ""
