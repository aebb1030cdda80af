"""What instructions do to an image's config, in builds and as changes of commit and import."""

import pytest

from scow.build.config_changes import apply_changes, environment, set_variable, shell_of
from scow.build.errors import DockerfileError
from scow.oci.image_config import ExecConfig, Healthcheck


def changed(*changes: str, config: ExecConfig | None = None) -> ExecConfig:
    return apply_changes(changes, config or ExecConfig())


def test_variables_are_set_in_their_old_place() -> None:
    config = changed("ENV B=2 A='x y'", "ENV C $A-$B", config=ExecConfig(env=["A=1", "PATH=/bin"]))
    assert config.env == ["A=x y", "PATH=/bin", "B=2", "C=x y-2"]


def test_an_instruction_sees_the_variables_as_they_were_before_it() -> None:
    config = changed("ENV abc=hello", "ENV abc=bye def=$abc", "ENV ghi=$abc")
    assert environment(config) == {"abc": "bye", "def": "hello", "ghi": "bye"}


def test_labels_are_added() -> None:
    config = changed('LABEL a="b c" "d e"=f', "LABEL a=$X", config=ExecConfig(env=["X=1"], labels={"z": "y"}))
    assert config.labels == {"z": "y", "a": "1", "d e": "f"}


def test_ports_are_exposed() -> None:
    config = changed("EXPOSE 80 53/UDP 8000-8002/tcp", "EXPOSE $P", config=ExecConfig(env=["P=1 2/sctp"]))
    expected = ["80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp", "1/tcp", "2/sctp"]
    assert config.exposed_ports == {port: {} for port in expected}
    assert changed("EXPOSE 127.0.0.1:80:81").exposed_ports == {"81/tcp": {}}


def test_commands_take_the_shell_that_the_config_has() -> None:
    assert changed("CMD echo $x").cmd == ["/bin/sh", "-c", "echo $x"]
    assert changed("CMD echo", config=ExecConfig(shell=["bash", "-ec"])).cmd == ["bash", "-ec", "echo"]
    assert changed('CMD ["a"]').cmd == ["a"]
    assert changed("CMD []").cmd == []
    assert changed("CMD").cmd == ["/bin/sh", "-c"]
    assert shell_of(ExecConfig()) == ("/bin/sh", "-c")


def test_an_entrypoint_clears_the_command_of_the_base_only() -> None:
    base = ExecConfig(cmd=["old"])
    assert changed('ENTRYPOINT ["e"]', config=base).cmd is None
    config = changed('CMD ["c"]', 'ENTRYPOINT ["e"]', config=base)
    assert (config.cmd, config.entrypoint) == (["c"], ["e"])
    assert changed("ENTRYPOINT []", config=ExecConfig(entrypoint=["x"])).entrypoint is None


def test_working_directories_build_on_each_other() -> None:
    assert changed("WORKDIR /a", "WORKDIR b", "WORKDIR $x/../c", config=ExecConfig(env=["x=y"])).working_dir == "/a/b/c"
    assert changed("WORKDIR a/").working_dir == "/a"
    assert changed("WORKDIR ../../a b").working_dir == "/a b"
    assert changed("WORKDIR //x").working_dir == "/x"


def test_the_rest_is_set() -> None:
    config = changed(
        "USER $WHO:staff",
        "VOLUME /a /b",
        'VOLUME ["/c d"]',
        "STOPSIGNAL SIGUSR1",
        "ONBUILD RUN x",
        "HEALTHCHECK --interval=2s --retries=3 CMD true",
        config=ExecConfig(env=["WHO=me"], on_build=["RUN y"]),
    )
    assert config.user == "me:staff"
    assert config.volumes == {"/a": {}, "/b": {}, "/c d": {}}
    assert config.stop_signal == "SIGUSR1"
    assert config.on_build == ["RUN y", "RUN x"]
    assert config.healthcheck == Healthcheck(test=["CMD-SHELL", "true"], interval=2 * 10**9, retries=3)
    assert changed("HEALTHCHECK NONE").healthcheck == Healthcheck(test=["NONE"])
    exec_form = changed('HEALTHCHECK CMD ["true"]').healthcheck
    assert exec_form is not None
    assert exec_form.test == ["CMD", "true"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("RUN x", "run is not a valid change command"),
        ("SHELL []", "shell is not a valid change command"),
        ("copy a b", "copy is not a valid change command"),
        ("FOO", "foo is not a valid change command"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("EXPOSE 80/x", "invalid proto: x"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("EXPOSE 9-8", "invalid containerPort: 9-8"),
        ("STOPSIGNAL SIGNO", "invalid signal: SIGNO"),
        ("VOLUME $none", "VOLUME specified can not be an empty string"),
        ("WORKDIR $none", "cannot normalize nothing"),
        ("ENV ${x=1}=a", 'failed to process "\\${x": syntax error: missing'),
        ("ENV A=1 B", "can't find = in"),
        ("EXPOSE", "^EXPOSE requires at least one argument$"),
    ],
)
def test_a_bad_change_is_refused(change: str, why: str) -> None:
    with pytest.raises(DockerfileError, match=why):
        changed("USER ok", change)


def test_a_variable_that_is_there_twice_is_set_once() -> None:
    assert set_variable(["A=1", "B=2", "A=3"], "A", "4") == ["A=4", "B=2"]
