"""Why a process could not be started in a container: the runtimes' messages as kinds of error with docker's words.

Clients take their own exit code from the text: "executable file not found" and "no such file or directory" mean 127,
"permission denied" and "is a directory" 126. runc writes these as they are; crun lets the C library say them, with a
capital, and words a missing command in its own way.
"""

import contextlib
import json
import re
from typing import Final

from scow.errors import Internal, InvalidArgument

EXIT_NOT_FOUND: Final = 127
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_RUNTIME_FAILED: Final = 128

_WORDS: Final = ("No such file or directory", "Permission denied", "Is a directory", "Not a directory")
_CRUN_MISSING: Final = re.compile(r"executable file `(?P<name>.*?)` not found(?: in \$PATH|: )")
_CRUN_CHDIR: Final = re.compile(r"chdir (?:to )?`(?P<path>.*?)`: ")
_CRUN_OPEN: Final = re.compile(
    r"open executable: |exec container process `?(?P<path>[^`]*)`?: |access `(?P<other>.*?)`: "
)
_RUNC_LINE: Final = re.compile(r'level=error msg="(?P<message>(?:[^"\\]|\\.)*)"')
_TIMESTAMP: Final = re.compile(r"^\d{4}-\d\d-\d\dT\S+: ")


class CommandNotFound(InvalidArgument):
    """The command, or the folder to run it in, doesn't exist."""

    exit_code = EXIT_NOT_FOUND


class CommandNotExecutable(InvalidArgument):
    """The command exists and can't be executed, or a mount doesn't fit what it is mounted on."""

    exit_code = EXIT_NOT_EXECUTABLE


class RuntimeFailed(Internal):
    """The runtime or the monitor failed for another reason."""

    exit_code = EXIT_RUNTIME_FAILED


StartError = CommandNotFound | CommandNotExecutable | RuntimeFailed


def start_error(stderr: str, *, runtime: str, args: list[str] | tuple[str, ...], exec: bool = False) -> StartError:
    """The error for what a runtime said when it could not create a container, or run a command in one (`exec`)."""
    said = describe(stderr, args)
    if exec:
        text = f"OCI runtime exec failed: exec failed: {said}"
    else:
        text = (
            "failed to create task for container: failed to create shim task: "
            f"OCI runtime create failed: {runtime} create failed: {said}"
        )
    # The command is named in the text when the failure is about it; other missing files are faults of the set-up.
    about_command = bool(args) and (f'exec: "{args[0]}"' in said or "chdir" in said)
    if about_command and ("executable file not found" in said or "no such file or directory" in said):
        return CommandNotFound(text)
    if "permission denied" in said or "is a directory" in said:
        return CommandNotExecutable(text)
    if "not a directory" in said:
        return CommandNotExecutable(
            f"{text}: Are you trying to mount a directory onto a file (or vice-versa)? "
            "Check if the specified host path exists and is the expected type"
        )
    return RuntimeFailed(text)


def describe(stderr: str, args: list[str] | tuple[str, ...]) -> str:
    """What a runtime wrote to its standard error, in runc's words and on one line."""
    text = _last_message(stderr)
    for words in _WORDS:
        text = text.replace(words, words.lower())
    command = args[0] if args else ""
    missing = _CRUN_MISSING.search(text)
    if missing:
        name = missing["name"] or command
        # crun from 1.15 on says this of paths as well, which runc has looked at without $PATH.
        reason = f"stat {name}: no such file or directory" if "/" in name else "executable file not found in $PATH"
        return f'unable to start container process: exec: "{name}": {reason}'
    chdir = _CRUN_CHDIR.search(text)
    if chdir:
        reason = text[chdir.end() :]
        return (
            f'unable to start container process: chdir to cwd ("{chdir["path"]}") set in config.json failed: {reason}'
        )
    opened = _CRUN_OPEN.search(text)
    if opened:
        reason = text.rpartition(": ")[2]
        if args and not command:
            reason = "executable file not found in $PATH"
        elif reason in ("permission denied", "Operation not permitted"):  # the latter is crun's word for a folder
            reason = "permission denied"
        else:
            reason = f"stat {command}: {reason}"
        return f'unable to start container process: exec: "{command}": {reason}'
    return text


def _last_message(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return "the runtime gave no reason"
    logged = [message for line in lines if (message := _logged(line))]
    if logged:
        message = logged[-1]
        for prefix in ("runc create failed: ", "runc run failed: ", "exec failed: "):
            message = message.removeprefix(prefix)
        return message
    return ": ".join(_TIMESTAMP.sub("", line) for line in lines)


def _logged(line: str) -> str:
    """The message of an error in a log line: JSON by both runtimes, or runc's text; "" for any other line."""
    if line.startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            return str(entry.get("msg", "")) if entry.get("level") in ("error", "fatal") else ""
    match = _RUNC_LINE.search(line)
    return str(json.loads(f'"{match["message"]}"')) if match else ""
