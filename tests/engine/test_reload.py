"""SIGHUP: the keys that dockerd reads again take effect, others and mistakes change nothing."""

import json
import signal
from collections.abc import Iterator

import pytest

from support import raw
from support.daemon import Daemon, folder
from support.machine import traces


@pytest.fixture
def configured() -> Iterator[Daemon]:
    with folder() as path:
        (path / "daemon.json").write_text(json.dumps({"labels": ["a=1"], "log-driver": "local"}))
        daemon = Daemon(path, "--config-file", str(path / "daemon.json")).start()
        try:
            yield daemon
        finally:
            daemon.stop()
        assert not traces(path)


def test_a_hangup_reloads_the_configuration(configured: Daemon) -> None:
    file = configured.folder / "daemon.json"
    assert configured.process is not None
    with raw.connected(configured) as events:
        events.ask("GET", "/v1.50/events?filters=" + '{"type":["daemon"]}'.replace('"', "%22"))
        file.write_text("{ not JSON")
        configured.process.send_signal(signal.SIGHUP)
        wanted = {
            "labels": ["b=2"],
            "debug": True,
            "registry-mirrors": ["http://127.0.0.1:9"],
            "insecure-registries": ["10.9.8.0/24"],
            "log-driver": "none",
        }
        new = file.with_suffix(".new")
        new.write_text(json.dumps(wanted))
        new.replace(file)
        configured.process.send_signal(signal.SIGHUP)
        while not (line := events.until(b"\n").strip()).startswith(b"{"):
            pass
    event = json.loads(line)
    assert (event["Type"], event["Action"]) == ("daemon", "reload")
    assert (event["Actor"]["Attributes"]["labels"], event["Actor"]["Attributes"]["debug"]) == ('["b=2"]', "true")
    info = configured.json("GET", "/info")
    assert (info["Labels"], info["Debug"], info["LoggingDriver"]) == (["b=2"], True, "local")
    assert info["RegistryConfig"]["Mirrors"] == ["http://127.0.0.1:9"]
    assert "10.9.8.0/24" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
    assert "take effect when the engine is restarted: log-driver" in configured.log
