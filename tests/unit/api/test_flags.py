"""`scowd` takes dockerd's flags, and refuses what is said twice."""

import json
from pathlib import Path

import pytest

from scow.api.daemon import default_host, main
from scow.api.flags import parse_flags
from scow.engine.config import CONFIG_FILE, EngineConfig, InvalidConfig, make_config, read_config_file


def config_of(*arguments: str) -> EngineConfig:
    flags = parse_flags(arguments)
    return make_config(flags.given, read_config_file(flags.file, required=True) if flags.file_required else {})


def test_without_flags_nothing_is_set() -> None:
    assert parse_flags([]) == ({}, CONFIG_FILE, False, False)
    assert config_of() == EngineConfig()


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--data-root", "/d"], "data_root", Path("/d")),
        (["--exec-root=/e"], "exec_root", Path("/e")),
        (["-H", "unix:///a", "--host", "tcp://1.2.3.4:5"], "hosts", ("unix:///a", "tcp://1.2.3.4:5")),
        (["--pidfile", "/p"], "pidfile", Path("/p")),
        (["--registry-mirror", "http://m", "--registry-mirror=http://n"], "registry_mirrors", ("http://m", "http://n")),
        (["--insecure-registry", "r:5000"], "insecure_registries", ("r:5000",)),
        (["--default-runtime", "runc"], "default_runtime", "runc"),
        (["-s", "overlay2"], "storage_driver", "overlay2"),
        (["--bip", "10.1.0.1/24"], "bip", "10.1.0.1/24"),
        (["--dns", "1.1.1.1", "--dns", "8.8.8.8"], "dns", ("1.1.1.1", "8.8.8.8")),
        (["-l", "warn"], "log_level", "warn"),
        (["--tlsverify"], "tlsverify", True),
        (["--tlsverify=false"], "tlsverify", False),
        (["--live-restore", "--debug"], "debug", True),
        (["--tlscacert", "c"], "tlscacert", "c"),
        (["--userns-remap", "default"], "userns_remap", "default"),
        (["--label", "a=b"], "labels", ("a=b",)),
        (["--log-opt", "max-size=1m"], "log_opts", {"max-size": "1m"}),
        (["--max-concurrent-downloads", "7"], "max_concurrent_downloads", 7),
        (["--shutdown-timeout", "3"], "shutdown_timeout", 3),
        (["--default-shm-size", "1g"], "default_shm_size", 1 << 30),
        (["--default-ipc-mode", "shareable"], "default_ipc_mode", "shareable"),
        (["--icc=false"], "icc", False),
        (
            ["--default-address-pool", "base=10.9.0.0/16,size=24"],
            "default_address_pools",
            ({"base": "10.9.0.0/16", "size": 24},),
        ),
        (
            ["--default-network-opt", "bridge=a=1", "--default-network-opt=bridge=b=2"],
            "default_network_opts",
            {"bridge": {"a": "1", "b": "2"}},
        ),
    ],
)
def test_a_flag_sets_its_field(arguments: list[str], field: str, value: object) -> None:
    assert getattr(config_of(*arguments), field) == value


def test_a_runtime_is_added_by_name_and_path() -> None:
    assert config_of("--add-runtime", "mine=/bin/mine").runtimes["mine"].path == "/bin/mine"


def test_a_limit_has_a_soft_and_a_hard_value() -> None:
    limits = config_of("--default-ulimit", "nofile=1024:2048", "--default-ulimit", "core=0").default_ulimits
    assert (limits["nofile"].soft, limits["nofile"].hard) == (1024, 2048)
    assert (limits["core"].soft, limits["core"].hard) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nope"],
        ["--log-level", "loud"],
        ["--debug=maybe"],
        ["--add-runtime", "x"],
        ["--default-ulimit", "x=y"],
        ["--default-shm-size", "big"],
        ["--default-address-pool", "10.9.0.0/16"],
        ["--default-network-opt", "x"],
    ],
)
def test_flags_that_make_no_sense_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_flags(arguments)
    assert end.value.code == 2


def test_the_file_and_the_flags_are_merged(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"registry-mirrors": ["http://m"], "debug": True}))
    config = config_of("--config-file", str(file), "--dns", "1.1.1.1")
    assert (config.registry_mirrors, config.debug, config.dns) == (("http://m",), True, ("1.1.1.1",))


def test_a_key_given_in_both_is_a_conflict(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"dns": ["1.1.1.1"]}))
    with pytest.raises(InvalidConfig, match="specified both as a flag and in the configuration file: dns"):
        config_of("--config-file", str(file), "--dns", "8.8.8.8")


@pytest.mark.parametrize("text", ["{", "[]", '{"no-such-key":1}', '{"debug":"perhaps"}', '{"dns":"1.1.1.1"}'])
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(text)
    assert main(["--config-file", str(file)]) == 1
    assert "unable to configure the engine" in capsys.readouterr().err


def test_a_configuration_is_checked_without_a_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"icc": false}')
    assert main(["--validate", "--config-file", str(file)]) == 0
    assert capsys.readouterr().out == "configuration OK\n"
    file.write_text('{"icc": "perhaps"}')
    assert main(["--validate", "--config-file", str(file)]) == 1
    assert "icc: Expected `bool`" in capsys.readouterr().err


def test_a_file_that_was_asked_for_has_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", str(tmp_path / "none")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_the_default_socket() -> None:
    assert default_host(EngineConfig()) == "unix:///run/scow/scow.sock"
