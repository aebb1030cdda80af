"""`scow exec`: another process in a running container."""

from __future__ import annotations

from scow.cli.attachment import Attendance, check_tty, detach_keys
from scow.cli.command import Command
from scow.cli.container_config import read_env
from scow.cli.container_flags import parse_env
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.terminal import size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def execute(session: Session, options: Options) -> int:
    """Run a command in a container; returns its exit code."""
    container, *command = options.args
    engine = session.engine
    detach, tty, stdin = options.flag("detach"), options.flag("tty"), options.flag("interactive")
    keys_text, keys = detach_keys(session, options.text("detach-keys"))
    env = read_env(options.texts("env-file"), options.texts("env"), session.environment)
    engine.get(f"/containers/{quote(container)}/json")
    if not detach:
        check_tty(session, stdin, tty)
    size = size_of(1) if tty else None
    request: dict[str, Any] = {
        "User": options.text("user"),
        "Privileged": options.flag("privileged"),
        "Tty": tty,
        "AttachStdin": stdin and not detach,
        "AttachStderr": not detach,
        "AttachStdout": not detach,
        "DetachKeys": keys_text,
        "Env": env or None,
        "WorkingDir": options.text("workdir"),
        "Cmd": command,
    }
    if size is not None:
        request["ConsoleSize"] = list(size)
    number = (engine.post(f"/containers/{quote(container)}/exec", None, request) or {}).get("Id")
    if not number:
        raise CliError("exec ID empty")
    begin: dict[str, Any] = {"Detach": detach, "Tty": tty}
    if size is not None:
        begin["ConsoleSize"] = list(size)
    if detach:
        engine.post(f"/exec/{number}/start", None, begin)
        return 0

    def resize(rows: int, columns: int) -> None:
        engine.post(f"/exec/{number}/resize", {"h": str(rows), "w": str(columns)})

    with Attendance(tty=tty, stdin=stdin, proxy=False, forward=None, resize=resize) as attendance:
        connection = engine.upgrade(f"/exec/{number}/start", None, begin)
        attendance.fit()
        if not attendance.carry(connection, stdin, keys):
            return 0
    try:
        return int(engine.get(f"/exec/{number}/json").get("ExitCode") or 0)
    except EngineError as error:
        raise CliError(error.message, 1) from None


COMMANDS = {
    "exec": Command(
        execute,
        "CONTAINER COMMAND [ARG...]",
        (
            Flag("detach", "d", "bool", "Detached mode: run command in the background"),
            Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
            Flag("env", "e", "list", "Set environment variables", convert=parse_env),
            Flag("env-file", "", "list", "Read in a file of environment variables"),
            Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
            Flag("privileged", "", "bool", "Give extended privileges to the command"),
            Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
            Flag("user", "u", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
            Flag("workdir", "w", "string", "Working directory inside the container"),
        ),
        2,
        None,
        interspersed=False,
    )
}
