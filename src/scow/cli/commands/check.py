"""`scow system check`: what the machine offers, and whether what the engine keeps is as it should be."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CannotConnect, CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def check(session: Session, options: Options) -> int:
    """Check the machine, unless told otherwise, and then the engine's store, if an engine answers."""
    code = 0
    if not options.flag("store"):
        import subprocess

        sys.stdout.flush()
        # In a process of its own: the client imports nothing of the engine.
        code = subprocess.run([sys.executable, "-m", "scow.runtime.check"], check=False).returncode
        if options.flag("machine"):
            return code
        session.print("")
    try:
        return max(code, _store(session, options.flag("repair")))
    except CannotConnect as error:
        if options.flag("store") or options.flag("repair"):
            raise
        session.print(f"No engine answers, so that its store is not checked: {error.message}")
        return code


def _store(session: Session, repair: bool) -> int:
    import base64

    from scow.cli.credentials import all_credentials

    known = all_credentials(session.config, session.environment) if repair else {}
    headers = {"X-Registry-Config": base64.urlsafe_b64encode(dumps(known).encode()).decode()} if known else {}
    try:
        response = session.engine.open(
            "POST", "/scow/system/check", {"repair": "1"} if repair else None, headers=headers
        )
    except EngineError as error:
        if error.status != 404:
            raise
        raise CliError("this engine is not Scow: it cannot check its store") from None
    view = _View(sys.stdout.isatty())
    for message in response.messages():
        if message.get("Error"):
            view.clear()
            raise CliError(str(message["Error"]))
        if message.get("Summary"):
            session.engine.done(response)
            return view.end(message, repair)
        view.show(message)
    raise CliError("the engine broke off the check")


class _View:
    """Findings as they come; on a terminal a line below them tells how far the check is."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def show(self, message: dict[str, Any]) -> None:
        if message.get("Problem"):
            self.clear()
            sys.stdout.write(_lines(message))
        elif self._terminal and message.get("Step"):
            done = f" {message['Done']}/{message['Total']}" if message.get("Total") else ""
            sys.stdout.write(f"\r\x1b[Kchecking {message['Step']}{done}")
        sys.stdout.flush()

    def clear(self) -> None:
        if self._terminal:
            sys.stdout.write("\r\x1b[K")

    def end(self, message: dict[str, Any], repair: bool) -> int:
        self.clear()
        checked, found, left = message.get("Checked", 0), message.get("Found", 0), message.get("Left", 0)
        if not found:
            sys.stdout.write(f"{checked} things checked: all is as it should be\n")
        elif repair:
            sys.stdout.write(f"{checked} things checked, {found} problems found, {found - left} repaired\n")
        else:
            sys.stdout.write(
                f"{checked} things checked, {found} problems found; `scow system check --repair` repairs\n"
            )
        return 1 if left else 0


def _lines(message: dict[str, Any]) -> str:
    mark = "repaired" if message.get("Repaired") else "PROBLEM"
    text = f"{mark}  {message['Kind']} {message['Id']}: {message['Problem']}\n"
    if message.get("Repair"):
        text += f"          {message['Repair']}\n"
    if message.get("Images"):
        text += f"          of {', '.join(message['Images'])}\n"
    if message.get("Containers"):
        text += f"          running on it: {', '.join(message['Containers'])}\n"
    return text


COMMANDS = {
    "check": Command(
        check,
        "",
        (
            Flag("machine", "", "bool", "Check only what this machine offers"),
            Flag("repair", "", "bool", "Put right what can be: fetch or make again what is damaged, drop leftovers"),
            Flag("store", "", "bool", "Check only what the engine keeps"),
        ),
    )
}
