"""What runtimes say when a process can't be started, in docker's words."""

import pytest

from scow.errors import ScowError
from scow.runtime.failures import CommandNotExecutable, CommandNotFound, RuntimeFailed, start_error

CRUN = "executable file `nope` not found in $PATH: No such file or directory"
RUNC = 'exec: "nope": executable file not found in $PATH'
NOT_FOUND = f"unable to start container process: {RUNC}"
QUOTED = NOT_FOUND.replace('"', '\\"')


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (CRUN, CommandNotFound, NOT_FOUND),
        (f"2026-11-23T20:31:06.000000Z: {CRUN}", CommandNotFound, NOT_FOUND),
        (f'{{"msg":"{CRUN}","level":"error","time":"x"}}', CommandNotFound, NOT_FOUND),
        (f'time="x" level=error msg="runc create failed: {QUOTED}"', CommandNotFound, NOT_FOUND),
        (
            f'{{"level":"warning","msg":"x"}}\n{{"level":"error","msg":"exec failed: {QUOTED}"}}',
            CommandNotFound,
            NOT_FOUND,
        ),
        (
            "chdir to `/no`: No such file or directory",
            CommandNotFound,
            '("/no") set in config.json failed: no such file',
        ),
        (
            "executable file `/no/pe` not found: No such file or directory",
            CommandNotFound,
            'exec: "/no/pe": stat /no/pe: no such file or directory',
        ),
        ("open executable: Permission denied", CommandNotExecutable, 'exec: "nope": permission denied'),
        ("open executable: Operation not permitted", CommandNotExecutable, 'exec: "nope": permission denied'),
        ("mount `x` to `y`: Not a directory", CommandNotExecutable, "Are you trying to mount a directory onto a file"),
        ("mount `x` to `y`: No such file or directory", RuntimeFailed, "mount `x` to `y`: no such file or directory"),
        ("cgroups in hybrid mode not supported", RuntimeFailed, "cgroups in hybrid mode not supported"),
        ("", RuntimeFailed, "the runtime gave no reason"),
    ],
)
def test_kinds_and_words(said: str, kind: type[ScowError], words: str) -> None:
    error = start_error(said, runtime="crun", args=["/no/pe" if "/no/pe" in said else "nope"])
    assert type(error) is kind
    assert words in str(error)
    assert "OCI runtime create failed: crun create failed: " in str(error)


def test_a_command_without_a_name_is_not_found() -> None:
    error = start_error("open executable: Permission denied", runtime="crun", args=[""])
    assert (type(error), 'exec: "": executable file not found in $PATH' in str(error)) == (CommandNotFound, True)


def test_exec_has_its_own_head() -> None:
    error = start_error("executable file `nope` not found in $PATH: x", runtime="crun", args=["nope"], exec=True)
    assert str(error) == f"OCI runtime exec failed: exec failed: {NOT_FOUND}"
    assert error.exit_code == 127
