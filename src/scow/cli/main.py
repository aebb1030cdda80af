"""The client's entry: global flags, the command, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import sys

from scow.cli.errors import CliError, Exit, FlagError, UsageError
from scow.cli.flags import Flag, Options, parse
from scow.cli.http import HttpError
from scow.cli.session import Session
from scow.cli.tree import GROUPS, find, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.cli.command import Command

PROGRAM = "scow"

GLOBAL_FLAGS = (
    Flag("config", "", "string", "Location of client config files", shown='"~/.docker"'),
    Flag(
        "context",
        "c",
        "string",
        "Name of the context to use to connect to the engine (overrides SCOW_HOST, DOCKER_HOST and the current one)",
    ),
    Flag("debug", "D", "bool", "Enable debug mode"),
    Flag("host", "H", "list", "Engine socket to connect to"),
    Flag(
        "log-level", "l", "string", 'Set the logging level ("debug", "info", "warn", "error", "fatal")', shown='"info"'
    ),
    Flag("tls", "", "bool", "Use TLS; implied by --tlsverify"),
    Flag("tlscacert", "", "string", "Trust certs signed only by this CA", shown='"~/.docker/ca.pem"'),
    Flag("tlscert", "", "string", "Path to TLS certificate file", shown='"~/.docker/cert.pem"'),
    Flag("tlskey", "", "string", "Path to TLS key file", shown='"~/.docker/key.pem"'),
    Flag("tlsverify", "", "bool", "Use TLS and verify the remote"),
    Flag("version", "v", "bool", "Print version information and quit"),
)


def main() -> None:
    """Run the client on the process's arguments and leave with its exit code."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    except ValueError:
        pass  # closed by the command
    sys.stderr.flush()
    # Nothing is left that tearing down the interpreter would release, and that takes milliseconds.
    os._exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command line; returns the exit code. What is to be said has been written."""
    session: Session | None = None
    try:
        options = parse(GLOBAL_FLAGS, words, interspersed=False)
        session = Session(options, os.environ, PROGRAM)
        return dispatch(session)
    except FlagError as error:
        complain(f"{error.message}\n\nUsage:  {PROGRAM} [OPTIONS] COMMAND [ARG...]\n\n{advice(PROGRAM)}")
        return error.exit_code
    except Exit as leave:
        return leave.exit_code
    except CliError as error:
        complain(error.message)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; keep the interpreter from flushing into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, HttpError) as error:
        complain(f"{PROGRAM}: {error}")
        return 1
    finally:
        if session is not None:
            session.close()


def complain(message: str) -> None:
    sys.stdout.flush()
    if message:
        sys.stderr.write(message + "\n")


def advice(command: str, verb: str = "Run") -> str:
    return f"{verb} '{command} --help' for more information"


def dispatch(session: Session) -> int:
    """Find the command that the arguments name and run it."""
    options, words = session.options, session.options.args
    if options.flag("version"):
        from scow.cli.version import CLIENT_VERSION

        session.print(f"Scow version {CLIENT_VERSION}")
        return 0
    if not words or options.flag("help"):
        return show_help(session, words)
    if words[0] == "help":
        return show_help(session, words[1:])
    if words[0] == "registry":
        os.execv(sys.executable, [sys.executable, "-m", "scow.registry", *words[1:]])
    if words[0] in GROUPS:
        if len(words) == 1 or words[1] in ("--help", "-h"):
            return show_help(session, words[:1])
        entry, rest = find((words[0], words[1])), words[2:]
        session.path = f"{words[0]} {words[1]}"
        if entry is None:
            group = f"{PROGRAM} {words[0]}"
            if words[1].startswith("-"):
                complain(f"unknown flag: {words[1]}\n\nUsage:  {group} COMMAND\n\n{advice(group)}")
                return 125
            complain(f"{PROGRAM}: unknown command: {group} {words[1]}\n\nUsage:  {group}\n\n{advice(group)}")
            return 1
    else:
        entry, rest = find((words[0],)), words[1:]
        session.path = words[0]
        if entry is None:
            complain(f"{PROGRAM}: unknown command: {PROGRAM} {words[0]}\n\n{advice(PROGRAM)}")
            return 1
    paths, module, key, about = entry
    return perform(session, load(module, key), rest, paths, about)


def perform(session: Session, command: Command, words: Sequence[str], paths: Sequence[str], about: str) -> int:
    """Parse a command's flags, check its arguments, and do it."""
    usage = f"Usage:  {session.command}{command.arguments_text()}"
    try:
        options: Options = parse(command.flags, words, command.interspersed)
        if options.flag("help"):
            from scow.cli.usage import command_help

            session.print(command_help(PROGRAM, session.path, paths, about, command))
            return 0
        command.check_arguments(session.command, len(options.args))
        return command.action(session, options) or 0
    except FlagError as error:
        complain(f"{error.message}\n\n{usage}\n\n{advice(session.command)}")
        return error.exit_code
    except UsageError as error:
        complain(f"{PROGRAM}: {error.message}\n\n{usage}\n\n{advice(session.command, error.hint)}")
        return error.exit_code


def show_help(session: Session, words: Sequence[str]) -> int:
    """Print the help of the client, of a group, or of a command."""
    if not words:
        from scow.cli.tree import root_help
        from scow.cli.usage import flag_lines, terminal_width

        session.print(root_help(PROGRAM, flag_lines(GLOBAL_FLAGS, terminal_width())))
        return 0
    if len(words) == 1 and words[0] in GROUPS:
        from scow.cli.tree import group_help

        session.print(group_help(PROGRAM, words[0]))
        return 0
    entry = find(tuple(words))
    if entry is None:
        raise CliError(f"unknown help topic: {' '.join(words)}")
    session.path = " ".join(words)
    return perform(session, load(entry[1], entry[2]), ["--help"], entry[0], entry[3])
