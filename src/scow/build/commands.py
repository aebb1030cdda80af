"""What a RUN executes."""

import re
from typing import Final

from scow.build import instructions as kinds
from scow.build.run_mounts import SCRIPT

_ONLY_HEREDOC: Final = re.compile(r"<<-?\s*[\"']?([^\s\"'<>]+)[\"']?")


def command_of(one: kinds.Run, shell: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """What a RUN executes, and the script to be mounted at SCRIPT for it, if there is one.

    A here-document alone is what the shell gets to run, or with `#!` a program; others are part of the command line.
    """
    command = one.command
    if not command.heredocs or not command.shell_form:
        return command.argv(shell), ""
    line = " ".join(command.args)
    if len(command.heredocs) == 1 and _ONLY_HEREDOC.fullmatch(line.strip()):
        text = command.heredocs[0].text
        return ((*shell, SCRIPT), text) if text.startswith("#!") else ((*shell, text), "")
    bodies = "".join(f"\n{each.body}{each.name}" for each in command.heredocs)
    return (*shell, line + bodies), ""
