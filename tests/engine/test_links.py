"""Links of the default bridge: variables, /etc/hosts, names; compared with what dockerd 20.10 gives."""

import json

from support.daemon import Daemon

SHOW = "env | grep ^DB_; grep db /etc/hosts"


def _web(engine: Daemon) -> tuple[str, str]:
    """A container to link to: its short ID and address."""
    flags = ["--name", "web", "-e", "FOO=bar", "--expose", "80", "--expose", "53/udp"]
    id = engine.docker("run", "-d", *flags, "busybox", "sleep", "60").stdout.strip()
    return id[:12], _address(engine)


def _address(engine: Daemon) -> str:
    return engine.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").stdout.strip()


def test_a_linked_container_is_told_of_in_variables_and_hosts(engine: Daemon) -> None:
    id, address = _web(engine)
    lines = engine.docker("run", "--name", "box", "--link", "web:db", "busybox", "sh", "-c", SHOW).stdout.splitlines()
    wanted = ["DB_ENV_FOO=bar", "DB_NAME=/box/db", f"DB_PORT=udp://{address}:53"]
    for port, protocol in ((53, "udp"), (80, "tcp")):
        base = f"DB_PORT_{port}_{protocol.upper()}"
        wanted += [f"{base}={protocol}://{address}:{port}", f"{base}_ADDR={address}", f"{base}_PORT={port}"]
        wanted.append(f"{base}_PROTO={protocol}")
    assert (sorted(lines[:-1]), lines[-1]) == (sorted(wanted), f"{address}\tdb {id} web")
    engine.docker("rename", "web", "other")
    assert json.loads(engine.docker("inspect", "-f", "{{json .HostConfig.Links}}", "box").stdout) == ["/other:/box/db"]
    names = {tuple(each["Names"]) for each in engine.json("GET", "/containers/json?all=1")}
    assert names == {("/box",), ("/box/db", "/other")}


def test_an_exec_sees_the_variables_and_hosts_follow_a_restart(engine: Daemon) -> None:
    _web(engine)
    engine.docker("run", "-d", "--name", "box", "--link", "web:db", "busybox", "sleep", "60")
    assert "DB_NAME=/box/db" in engine.docker("exec", "box", "env").stdout
    engine.docker("exec", "box", "sh", "-c", r"printf '\377\n' >>/etc/hosts")  # whatever else is in the file
    engine.docker("stop", "-t", "0", "web")
    engine.docker("run", "-d", "--name", "taker", "busybox", "sleep", "60")
    engine.docker("start", "web")
    found = engine.docker("exec", "box", "grep", "db", "/etc/hosts").stdout.split()
    assert found[:2] == [_address(engine), "db"]


def test_a_link_needs_a_container_that_runs_and_can_be_removed(engine: Daemon) -> None:
    _web(engine)
    engine.docker("create", "--name", "box", "--link", "web:db", "busybox", "true")
    engine.docker("stop", "-t", "0", "web")
    done = engine.docker("start", "box", check=False)
    assert "Cannot link to a non running container: /web AS /box/db" in done.stderr
    assert "No such container: box/nosuch" in engine.docker("rm", "--link", "box/nosuch", check=False).stderr
    engine.docker("rm", "--link", "/box/db")
    engine.docker("start", "-a", "box")
    engine.docker("rm", "web")
