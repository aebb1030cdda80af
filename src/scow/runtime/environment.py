"""A process's environment: docker's defaults, replaced and completed by what was asked for. Pure."""

from collections.abc import Iterable

from scow.runtime.profile import DEFAULT_PATH


def environment(asked: Iterable[str], *, hostname: str, tty: bool, home: str) -> list[str]:
    """PATH, HOSTNAME, TERM with a terminal, then what was asked for, then HOME if nothing has set it.

    A name without `=` removes the variable, as in `-e NAME` when the client's shell doesn't have it.
    """
    variables = {"PATH": f"PATH={DEFAULT_PATH}", "HOSTNAME": f"HOSTNAME={hostname}"}
    if tty:
        variables["TERM"] = "TERM=xterm"
    merge(variables, asked)
    variables.setdefault("HOME", f"HOME={home}")
    return list(variables.values())


def merge(variables: dict[str, str], asked: Iterable[str]) -> None:
    """Replace in place, append what is new, remove what comes without `=`."""
    for entry in asked:
        name, equals, _ = entry.partition("=")
        if equals:
            variables[name] = entry
        else:
            variables.pop(name, None)
