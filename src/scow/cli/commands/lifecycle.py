"""Commands that do one thing to each of the named containers: stop, kill, rm and their kin; top and port."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scow.cli.session import Session


def each(session: Session, containers: Sequence[str], act: Callable[[str], object]) -> int:
    """Do something to each container and print its name; errors are told at the end, as docker does."""
    errors: list[str] = []
    for container in containers:
        try:
            act(quote(container))
        except CliError as error:
            errors.append(error.message)
        else:
            session.print(container)
    if errors:
        raise CliError("\n".join(errors))
    return 0


def _stop_query(options: Options) -> Mapping[str, str]:
    query = {}
    if options.text("signal"):
        query["signal"] = options.text("signal")
    for name in ("timeout", "time"):
        if options.changed(name):
            query["t"] = str(options.number(name))
    return query


def stop(session: Session, options: Options) -> int:
    """Stop containers."""
    query = _stop_query(options)
    return each(session, options.args, lambda name: session.engine.post(f"/containers/{name}/stop", query))


def restart(session: Session, options: Options) -> int:
    """Restart containers."""
    query = _stop_query(options)
    return each(session, options.args, lambda name: session.engine.post(f"/containers/{name}/restart", query))


def kill(session: Session, options: Options) -> int:
    """Send a signal to containers."""
    query = {"signal": options.text("signal")} if options.text("signal") else {}
    return each(session, options.args, lambda name: session.engine.post(f"/containers/{name}/kill", query))


def pause(session: Session, options: Options) -> int:
    """Freeze containers."""
    return each(session, options.args, lambda name: session.engine.post(f"/containers/{name}/pause"))


def unpause(session: Session, options: Options) -> int:
    """Let frozen containers go on."""
    return each(session, options.args, lambda name: session.engine.post(f"/containers/{name}/unpause"))


def rm(session: Session, options: Options) -> int:
    """Remove containers."""
    flags = (("force", "force"), ("link", "link"), ("volumes", "v"))
    query = {key: "1" for flag, key in flags if options.flag(flag)}
    errors: list[str] = []
    for container in options.args:
        container = container.strip("/")
        if not container:
            errors.append("container name cannot be empty")
            continue
        try:
            session.engine.call("DELETE", f"/containers/{quote(container)}", query)
        except CliError as error:
            if options.flag("force") and getattr(error, "status", 0) == 404:
                session.warn(error.message)
                continue
            errors.append(error.message)
        else:
            session.print(container)
    if errors:
        raise CliError("\n".join(errors))
    return 0


def wait(session: Session, options: Options) -> int:
    """Wait until containers stop and print their exit codes."""
    errors: list[str] = []
    for container in options.args:
        try:
            answer = session.engine.post(f"/containers/{quote(container)}/wait")
            session.print(str(answer["StatusCode"]))
        except CliError as error:
            errors.append(error.message)
    if errors:
        raise CliError("\n".join(errors))
    return 0


def rename(session: Session, options: Options) -> int:
    """Give a container another name."""
    old, new = (text.strip() for text in options.args)
    if not old or not new:
        raise CliError("Error: Neither old nor new names may be empty")
    try:
        session.engine.post(f"/containers/{quote(old)}/rename", {"name": new})
    except CliError as error:
        raise CliError(f"{error.message}\nError: failed to rename container named {old}") from None
    return 0


def top(session: Session, options: Options) -> int:
    """Show a container's processes."""
    container, *arguments = options.args
    query = {"ps_args": " ".join(arguments)} if arguments else {}
    answer = session.engine.get(f"/containers/{quote(container)}/top", query)
    rows = [answer["Titles"], *(answer.get("Processes") or [])]
    # tab-writer with a minimum width of 20
    last = len(rows[0]) - 1
    widths = [max(20, max(len(row[column]) for row in rows if column < len(row)) + 3) for column in range(last)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        session.print("".join(cells) + "".join(row[last:]))
    return 0


def port(session: Session, options: Options) -> int:
    """Show where a container's ports are published."""
    container = options.args[0]
    details = session.engine.get(f"/containers/{quote(container)}/json")
    ports = (details.get("NetworkSettings") or {}).get("Ports") or {}
    if len(options.args) > 1:
        number, _, protocol = options.args[1].partition("/")
        protocol = protocol or "tcp"
        if not number.isdigit() or int(number) > 65535:
            raise CliError(f"Error: invalid port ({options.args[1]})")
        bindings = ports.get(f"{number}/{protocol}")
        if not bindings:
            raise CliError(f"Error: No public port '{options.args[1]}' published for {container}")
        lines = [_binding(binding) for binding in bindings]
    else:
        lines = [f"{name} -> {_binding(item)}" for name, bindings in ports.items() for item in bindings or []]
        lines.sort(key=lambda line: (int(line.split("/", 1)[0]), line))
    for line in lines:
        session.print(line)
    return 0


def _binding(binding: Mapping[str, str]) -> str:
    address = binding["HostIp"]
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


CONTAINERS = "CONTAINER [CONTAINER...]"
SIGNAL = Flag("signal", "s", "string", "Signal to send to the container")
STOP_FLAGS = (
    SIGNAL,
    Flag("time", "", "int", "", hidden=True),
    Flag("timeout", "t", "int", "Seconds to wait before killing the container", default=0),
)

COMMANDS = {
    "stop": Command(stop, CONTAINERS, STOP_FLAGS, 1, None),
    "restart": Command(restart, CONTAINERS, STOP_FLAGS, 1, None),
    "kill": Command(kill, CONTAINERS, (SIGNAL,), 1, None),
    "pause": Command(pause, CONTAINERS, (), 1, None),
    "unpause": Command(unpause, CONTAINERS, (), 1, None),
    "rm": Command(
        rm,
        CONTAINERS,
        (
            Flag("force", "f", "bool", "Force the removal of a running container (uses SIGKILL)"),
            Flag("link", "l", "bool", "Remove the specified link"),
            Flag("volumes", "v", "bool", "Remove anonymous volumes associated with the container"),
        ),
        1,
        None,
    ),
    "wait": Command(wait, CONTAINERS, (), 1, None),
    "rename": Command(rename, "CONTAINER NEW_NAME", (), 2, 2),
    "top": Command(top, "CONTAINER [ps OPTIONS]", (), 1, None, interspersed=False),
    "port": Command(port, "CONTAINER [PRIVATE_PORT[/PROTO]]", (), 1, 2),
}
