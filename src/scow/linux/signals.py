"""Signals by name and number, as docker's clients and images name them."""

import signal

from scow.errors import InvalidArgument


def parse_signal(text: str) -> int:
    """Read `KILL`, `SIGKILL`, `9`, `RTMIN+3`. Raises InvalidArgument in docker's words."""
    word = text.strip().upper().removeprefix("SIG")
    if word.isdigit() and 0 < int(word) <= signal.SIGRTMAX:
        return int(word)
    for base, number, step in (("RTMIN", int(signal.SIGRTMIN), 1), ("RTMAX", int(signal.SIGRTMAX), -1)):
        if word == base:
            return number
        rest = word.removeprefix(base)
        if rest != word and rest[:1] in "+-" and rest[1:].isdigit() and int(rest[1:]) <= 30:
            return number + step * int(rest[1:])
    aliases = {"IOT": signal.SIGABRT, "POLL": signal.SIGIO, "CLD": signal.SIGCHLD}
    if word in aliases:
        return int(aliases[word])
    found = getattr(signal, f"SIG{word}", None)
    if isinstance(found, signal.Signals):
        return int(found)
    raise InvalidArgument(f"invalid signal: {text}")
