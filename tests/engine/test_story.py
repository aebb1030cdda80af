"""The story, by both clients: an empty table, run, pull, greeting, tables."""

import re

import pytest

from support.daemon import Daemon


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_run_pulls_a_missing_image_and_prints_its_greeting(engine: Daemon, client: str) -> None:
    run = getattr(engine, client)
    if "hello-world" in run("images").stdout:
        run("rmi", "-f", "hello-world")
    done = run("run", "hello-world")
    assert "Hello from Scow!" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0] == "Unable to find image 'hello-world:latest' locally"
    assert lines[1] == "latest: Pulling from library/hello-world"
    assert re.fullmatch(r"[0-9a-f]{12}: Pulling fs layer", lines[2])
    assert re.fullmatch(r"[0-9a-f]{12}: Pull complete", lines[-3])
    assert re.fullmatch(r"Digest: sha256:[0-9a-f]{64}", lines[-2])
    assert lines[-1] == "Status: Downloaded newer image for hello-world:latest"
    assert re.search(r"^hello-world +latest +[0-9a-f]{12} +.* ago +[0-9.]+kB$", run("images").stdout, re.MULTILINE)
    listed = run("ps", "-a").stdout
    assert re.search(r'^[0-9a-f]{12} +hello-world +"/hello" +.*ago +Exited \(0\) .*ago +[a-z]+_[a-z]+$', listed, re.M)
