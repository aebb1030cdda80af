"""The same words, streams and exit codes as docker's client, against the same engine."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

COMMANDS = """
ps
ps -a --no-trunc
ps -aq
ps -a --format json
ps -a --format '{{.Names}}|{{.Ports}}|{{.Label "tier"}}|{{.Labels}}|{{.State}}|{{.RunningFor}}|{{.Networks}}'
ps -a --format 'table {{.ID}}\\t{{.Status}}'
ps --format '{{.Foo}}'
ps --format '{{.Foo'
ps --foo
ps -aZ
ps extra
ps -f foo
ps -n
ps -n x
images
images --no-trunc
images -q
images --format '{{.ID}} {{.Size}} {{.CreatedSince}}'
run hello-world
run -d hello-world
run
run -p xx hello-world
container run -p xx hello-world
container create -m xx hello-world
run -m xx hello-world
run --rm=foo hello-world
run --memory
run -a foo hello-world
run -d -a stdout hello-world
run -it hello-world
run Foo
run --pull bogus hello-world
run --rm --restart always hello-world
create hello-world
pull hello-world
pull -q hello-world
pull Foo
pull
stop web gone
start web
inspect gone
inspect --type container web
rename web
volume ls
volume ls -q
network ls
network ls -q
frobnicate
container frobnicate
help frobnicate
-H foo://x ps
-H unix:///nonexistent.sock ps
-c nonexistent ps
--foo ps
"""


def docker_28() -> str:
    """The path of docker's client of the version that these words are of, or "" if there is none."""
    path = shutil.which("docker")
    if path is None:
        return ""
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return path if version.startswith("Docker version 28.2.") else ""


@pytest.mark.skipif(not docker_28(), reason="needs docker's client 28.2")
@pytest.mark.parametrize("command", COMMANDS.strip().split("\n"))
def test_both_clients_say_the_same(command: str, fake: Any, client: Callable[..., Any]) -> None:
    routes = {name: list(replies) for name, replies in fake.routes.items()}
    theirs = client(*shlex.split(command), program=docker_28())
    fake.routes = routes
    fake.started.clear()
    ours = client(*shlex.split(command))
    assert ours.stdout == theirs.stdout
    assert ours.stderr.replace("scow", "docker") == theirs.stderr
    assert ours.returncode == theirs.returncode
