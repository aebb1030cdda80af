"""`scow run` and `scow create`."""

from __future__ import annotations

import os
import sys

from scow.cli.command import Command
from scow.cli.container_config import attached, make_request
from scow.cli.container_flags import CONTAINER_FLAGS
from scow.cli.errors import CliError, EngineError, Exit, FlagError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.names import parse_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from scow.cli.session import Session

PULL_POLICIES = ("always", "missing", "never")
HEX = frozenset("0123456789abcdef")


def exit_code_of(message: str) -> int:
    """Which exit code the engine's words stand for: 127 not found, 126 not executable, else 125."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    if "permission denied" in message or "is a directory" in message:
        return 126
    return 125


def as_run_error(session: Session, error: CliError) -> CliError:
    """Say an error as `run` says it, with the exit code that its words stand for."""
    code = exit_code_of(error.message) if isinstance(error, EngineError) else 125
    verb = session.command.rpartition(" ")[2]  # docker says `docker run` to `docker container run`, too
    text = f"{session.program}: {error.message}\n\nRun '{session.program} {verb} --help' for more information"
    return CliError(text, code)


def image_name(text: str) -> str:
    """The image as messages show it, "" if it is an ID. Raises CliError."""
    bare = text.removeprefix("sha256:")
    if len(bare) == 64 and HEX.issuperset(bare):
        return ""
    return parse_name(text, default_tag=True).familiar


def pull_image(session: Session, text: str, platform: str, quiet: bool) -> None:
    from scow.cli.pulling import pull

    pull(session, parse_name(text, default_tag=True), sys.stderr, platform, quiet)


def create_container(session: Session, options: Options, request: dict[str, Any]) -> str:
    """Create a container, pulling its image if need be; returns its ID. Raises CliError."""
    policy, platform, quiet = options.text("pull"), options.text("platform"), options.flag("quiet")
    if policy not in PULL_POLICIES:
        raise CliError(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')
    apply_own_flags(options, request)
    credentials: Mapping[str, Any] = {}
    if options.flag("use-api-socket"):
        from scow.cli.api_socket import send, share

        credentials = share(session, request)
    cidfile = CidFile(options.text("cidfile"))
    image = request["Image"]
    familiar = image_name(image)
    query = {}
    if options.text("name"):
        query["name"] = options.text("name")
    if platform and session.engine.at_least(41):
        query["platform"] = platform
    try:
        if policy == "always" and familiar:
            pull_image(session, image, platform, quiet)
        try:
            if options.flag("replace"):
                make_way(session, options.text("name"))
            answer = session.engine.post("/containers/create", query, request)
        except EngineError as error:
            if error.status != 404 or not familiar or policy != "missing":
                raise
            if not quiet:
                session.warn(f"Unable to find image '{familiar}' locally")
            pull_image(session, image, platform, quiet)
            answer = session.engine.post("/containers/create", query, request)
    except BaseException:
        cidfile.discard()
        raise
    for warning in answer.get("Warnings") or []:
        session.warn(f"WARNING: {warning}")
    cidfile.write(answer["Id"])
    if credentials:
        send(session, answer["Id"], credentials)
    return str(answer["Id"])


def apply_own_flags(options: Options, request: dict[str, Any]) -> None:
    """Say what of `run` is Scow's own: a label tells the engine what to do with an unhealthy container."""
    if options.flag("replace") and not options.text("name"):
        raise CliError("cannot replace a container without --name being set")
    wish = options.text("health-on-failure")
    if wish not in ("", "none", "kill", "restart", "stop"):
        raise CliError(f"invalid --health-on-failure: '{wish}': must be one of none, kill, restart or stop")
    if wish and wish != "none":
        request["Labels"] = {**(request.get("Labels") or {}), "scow.health.on-failure": wish}


def make_way(session: Session, name: str) -> None:
    """Remove the container that has a name, running or not, with its anonymous volumes; none is fine."""
    try:
        answer = session.engine.get(f"/containers/{quote(name)}/json")
        # By its ID: a prefix of another container's ID is no name.
        if answer["Name"] == f"/{name}":
            session.engine.call("DELETE", f"/containers/{quote(answer['Id'])}", {"force": "1", "v": "1"})
    except EngineError as error:
        if error.status != 404:
            raise


class CidFile:
    """The file that `--cidfile` names; it must not exist, and is gone again if nothing was created."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not path:
            return
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            raise CliError(
                f"container ID file found, make sure the other container isn't running or delete {path}"
            ) from None
        except OSError as error:
            raise CliError(f"failed to create the container ID file: {error}") from None

    def write(self, container: str) -> None:
        if self.path:
            with open(self.path, "w", encoding="ascii") as file:
                file.write(container)

    def discard(self) -> None:
        if self.path:
            os.unlink(self.path)


def console_size() -> tuple[int, int]:
    from scow.cli.terminal import size_of

    return size_of(1) or (0, 0)


def create(session: Session, options: Options) -> None:
    """Create a container and print its ID."""
    try:
        request = make_request(options, session.environment, console_size(), session.proxies)
        container = create_container(session, options, request)
    except (FlagError, Exit):
        raise
    except CliError as error:
        raise _as_create_error(session, error) from None
    session.print(container)


def _as_create_error(session: Session, error: CliError) -> CliError:
    if isinstance(error, EngineError) or error.exit_code != 125:
        return CliError(error.message, 1)
    return as_run_error(session, error)


def run(session: Session, options: Options) -> int:
    """Create a container, attach to it, start it, and wait for its end; returns its exit code."""
    detach, tty = options.flag("detach"), options.flag("tty")
    try:
        request = make_request(options, session.environment, console_size(), session.proxies)
    except FlagError:
        raise
    except CliError as error:
        raise as_run_error(session, error) from None
    streams = attached(options)
    if detach:
        if options.texts("attach"):
            raise CliError("conflicting options: cannot specify both --attach and --detach")
        request.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
        streams = (False, False, False)
    else:
        from scow.cli.attachment import check_tty

        check_tty(session, streams[0], tty)
    try:
        container = create_container(session, options, request)
        if detach:
            session.engine.post(f"/containers/{quote(container)}/start")
    except CliError as error:
        raise as_run_error(session, error) from None
    if detach:
        session.print(container)
        return 0
    return run_attached(session, options, container, streams)


def run_attached(session: Session, options: Options, container: str, streams: tuple[bool, bool, bool]) -> int:
    """Attach, watch, start, carry: in this order, so that neither output nor exit code can be missed."""
    from scow.cli.attachment import Watch, attach_container, container_attendance, detach_keys

    engine = session.engine
    tty = options.flag("tty")
    remove = options.flag("rm")
    keys_text, keys = detach_keys(session, options.text("detach-keys"))
    attendance = container_attendance(engine, container, tty=tty, stdin=streams[0], proxy=options.flag("sig-proxy"))
    with attendance:
        watch: Watch | None = None
        try:
            connection = attach_container(engine, container, streams, keys_text) if any(streams) else None
            watch = Watch(engine, container, _end_condition(session, remove))
            engine.post(f"/containers/{quote(container)}/start")
        except CliError as error:
            if watch is not None and remove:
                _quietly(watch.result)
            raise as_run_error(session, error) from None
        attendance.fit()
        if connection is not None and not attendance.carry(connection, streams[0], keys):
            return 0
        return watch.result(attendance.signals)


def _end_condition(session: Session, remove: bool) -> str:
    if not session.engine.at_least(30):
        return ""
    return "removed" if remove else "next-exit"


def _quietly(wait: Callable[[], int]) -> None:
    try:
        wait()
    except CliError:
        return  # the start's error is the one to tell


OWN_FLAGS = (
    Flag("health-on-failure", "", "string", "What to do when the container turns unhealthy (none|kill|restart|stop)"),
    Flag("replace", "", "bool", "Remove a container that has the name, before this one is created"),
)

RUN_FLAGS = (
    Flag("detach", "d", "bool", "Run container in background and print container ID"),
    Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
    Flag("sig-proxy", "", "bool", "Proxy received signals to the process", default=True, shown="true"),
)

COMMANDS = {
    "run": Command(
        run, "IMAGE [COMMAND] [ARG...]", (*CONTAINER_FLAGS, *OWN_FLAGS, *RUN_FLAGS), 1, None, interspersed=False
    ),
    "create": Command(create, "IMAGE [COMMAND] [ARG...]", (*CONTAINER_FLAGS, *OWN_FLAGS), 1, None, interspersed=False),
}
