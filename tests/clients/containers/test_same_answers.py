"""`scow` and `docker` against one real engine: the same output, word for word."""

import re
import shlex

import pytest

from support.daemon import Daemon
from support.docker_client import modern_docker

pytestmark = modern_docker

COMMANDS = """
ps -a --no-trunc
ps -a --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Ports}} {{.Networks}} {{.Mounts}} {{.Labels}}'
ps -aq -f status=exited
ps -f bogus=x
ps -s
images
images --digests --no-trunc
images -f reference=busy*
inspect up
inspect done busybox
inspect -f '{{.State.Status}} {{json .Mounts}}' up
inspect nosuch
inspect -s done
logs done
logs -t done
logs nosuch
port up
port up 80
port up 99
wait done
wait nosuch
start up
start -a done
stop nosuch
kill done
pause done
unpause up
rename up done
rename nosuch x
rm up
rmi busybox
rmi nosuch
tag nosuch x
history busybox
top up
top done
exec up sh -c 'echo out; echo err >&2; exit 3'
exec up nosuch
exec done true
exec -d up true
exec -w /nosuch up true
attach done
run --rm busybox sh -c 'echo out; echo err >&2; exit 3'
run --rm busybox nosuch
run --rm -v rel/x:/d busybox
run --name up busybox
run --rm --network nosuch busybox
run --rm --network container:nosuch busybox
create --name up busybox
pull nosuch@sha256:12
volume ls -q
network ls --format '{{.Name}} {{.Driver}}'
push nosuch:x
"""


@pytest.mark.parametrize("command", COMMANDS.strip().split("\n"))
def test_both_clients_say_the_same(engine: Daemon, command: str) -> None:
    engine.docker("run", "--name", "done", "busybox", "sh", "-c", "echo out; exit 3", check=False)
    engine.docker(
        *("run", "-d", "--name", "up", "-l", "a=b", "-v", "/vol", "-v", "/tmp:/t:ro", "-p", "127.0.0.1::80"),
        *("busybox", "sleep", "60"),
    )
    theirs, ours = (getattr(engine, client)(*shlex.split(command), check=False) for client in ("docker", "scow"))

    def plain(text: str) -> str:
        # How long ago things were differs between the two, and with it the columns' widths.
        text = re.sub(r"\d+ (milli)?seconds?|Less than a second", "N seconds", text)
        text = re.sub(r" {2,}", "  ", text).replace("scow", "docker")
        # The names of one image come in the order of a Go map, which differs from call to call.
        return "\n".join(sorted(text.splitlines())) if command.startswith("images") else text

    assert plain(ours.stdout) == plain(theirs.stdout)
    assert plain(ours.stderr) == plain(theirs.stderr)
    assert ours.returncode == theirs.returncode
