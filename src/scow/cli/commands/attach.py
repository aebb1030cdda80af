"""`scow attach` and `scow start`: streams of containers that exist."""

from __future__ import annotations

from scow.cli.attachment import Watch, attach_container, check_tty, container_attendance, detach_keys
from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.session import Session

DETACH_KEYS = Flag("detach-keys", "", "string", "Override the key sequence for detaching a container")


def attach(session: Session, options: Options) -> int:
    """Attach to a running container; returns its exit code if it ends meanwhile."""
    engine, container = session.engine, options.args[0]
    watch = Watch(engine, container, "")
    details = engine.get(f"/containers/{quote(container)}/json")
    state = details["State"]
    if not state.get("Running"):
        raise CliError("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise CliError("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise CliError("You cannot attach to a restarting container, wait until it is running")
    tty = bool(details["Config"].get("Tty"))
    stdin = not options.flag("no-stdin") and bool(details["Config"].get("OpenStdin"))
    check_tty(session, stdin, tty)
    keys_text, keys = detach_keys(session, options.text("detach-keys"))
    attendance = container_attendance(engine, container, tty=tty, stdin=stdin, proxy=options.flag("sig-proxy"))
    with attendance:
        connection = attach_container(engine, container, (stdin, True, True), keys_text)
        if tty:
            _redraw(session, container)
            attendance.fit()
        if not attendance.carry(connection, stdin, keys):
            raise CliError("read escape sequence")
        return watch.result(attendance.signals)


def _redraw(session: Session, container: str) -> None:
    """Make the program in the container draw its screen anew: a size that differs, before the true one."""
    from scow.cli.terminal import size_of

    size = size_of(1)
    if size is not None:
        query = {"h": str(size[0] + 1), "w": str(size[1] + 1)}
        session.engine.post(f"/containers/{quote(container)}/resize", query)


def start(session: Session, options: Options) -> int:
    """Start containers; with --attach or --interactive one, whose exit code is returned."""
    if options.flag("attach") or options.flag("interactive"):
        if len(options.args) > 1:
            raise CliError("you cannot start and attach multiple containers at once")
        return start_attached(session, options, options.args[0])
    failed: list[str] = []
    for container in options.args:
        try:
            session.engine.post(f"/containers/{quote(container)}/start")
        except CliError as error:
            session.warn(error.message)
            failed.append(container)
        else:
            session.print(container)
    if failed:
        raise CliError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def start_attached(session: Session, options: Options, container: str) -> int:
    """Attach, watch, start and carry."""
    engine = session.engine
    details = engine.get(f"/containers/{quote(container)}/json")
    tty = bool(details["Config"].get("Tty"))
    stdin = options.flag("interactive") and bool(details["Config"].get("OpenStdin"))
    keys_text, keys = detach_keys(session, options.text("detach-keys"))
    proxy = options.flag("sig-proxy") if options.flag("attach") else True
    with container_attendance(engine, details["Id"], tty=tty, stdin=stdin, proxy=proxy) as attendance:
        connection = attach_container(engine, details["Id"], (stdin, True, True), keys_text)
        removed = bool((details.get("HostConfig") or {}).get("AutoRemove")) and engine.at_least(30)
        watch = Watch(engine, details["Id"], "removed" if removed else "next-exit" if engine.at_least(30) else "")
        engine.post(f"/containers/{quote(container)}/start")
        attendance.fit()
        if not attendance.carry(connection, stdin, keys):
            return 0
        return watch.result(attendance.signals)


COMMANDS = {
    "attach": Command(
        attach,
        "CONTAINER",
        (
            DETACH_KEYS,
            Flag("no-stdin", "", "bool", "Do not attach STDIN"),
            Flag("sig-proxy", "", "bool", "Proxy all received signals to the process", default=True, shown="true"),
        ),
        1,
        1,
    ),
    "start": Command(
        start,
        "CONTAINER [CONTAINER...]",
        (
            Flag("attach", "a", "bool", "Attach STDOUT/STDERR and forward signals"),
            DETACH_KEYS,
            Flag("interactive", "i", "bool", "Attach container's STDIN"),
            Flag("sig-proxy", "", "bool", "", default=True, hidden=True),
        ),
        1,
        None,
    ),
}
