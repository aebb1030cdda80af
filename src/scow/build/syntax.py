"""The pieces that instructions are written with: flags, words, key-value pairs, arrays."""

import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from scow.build.errors import DockerfileError, quoted
from scow.build.instructions import Argument, Command, Heredoc, Pair
from scow.build.shell_words import SPACE
from scow.build.suggest import nearest

_GAP: Final = re.compile(r"[\t\v\f\r ]+")
FlagKind = Literal["text", "switch", "texts"]


def split_instruction(text: str) -> tuple[str, str]:
    """The first word and the rest."""
    keyword, *rest = _GAP.split(text.strip(SPACE), maxsplit=1)
    return keyword, rest[0].strip(SPACE) if rest else ""


def split_flags(rest: str) -> tuple[tuple[str, ...], str]:
    """The `--flag=value` words that an instruction's arguments begin with, quotes removed, and what follows them.

    A lone `--` ends the flags.
    """
    flags: list[str] = []
    at = 0
    while True:
        while at < len(rest) and rest[at] in SPACE:
            at += 1
        if not rest.startswith("--", at):
            return tuple(flags), rest[at:].strip(SPACE)
        word, at = _flag_word(rest, at)
        if word == "--":
            return tuple(flags), rest[at:].strip(SPACE)
        flags.append(word)


def _flag_word(rest: str, at: int) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while at < len(rest):
        letter = rest[at]
        at += 1
        if not quote and letter in SPACE:
            break
        if letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == "\\":
            word.append(rest[at : at + 1])
            at += 1
        else:
            word.append(letter)
    return "".join(word), at


class Flags:
    """The flags of one instruction, checked against those it has."""

    def __init__(self, written: tuple[str, ...], known: Mapping[str, FlagKind]) -> None:
        """Raises DockerfileError for an unknown flag, one given twice, and a value that is missing or no boolean."""
        self._values: dict[str, list[str]] = {}
        for flag in written:
            name, equals, value = flag[2:].partition("=")
            kind = known.get(name)
            token = f"--{name}"
            if kind is None:
                raise DockerfileError(
                    f"unknown flag: --{name}", token=token, suggestion=nearest(name, known, same_case=True)
                )
            if kind != "texts" and name in self._values:
                raise DockerfileError(f"duplicate flag specified: --{name}", token=token)
            if (equals and not value and kind == "switch") or (not equals and kind != "switch"):
                raise DockerfileError(f"missing a value on flag: --{name}", token=token)
            if kind == "switch":
                value = value.lower() or "true"
                if value not in ("true", "false"):
                    raise DockerfileError(f"expecting boolean value for flag --{name}, not: {value}", token=flag)
            self._values.setdefault(name, []).append(value)

    def text(self, name: str, default: str = "") -> str:
        """The value of a flag."""
        return self._values.get(name, [default])[-1]

    def texts(self, name: str) -> tuple[str, ...]:
        """All values of a flag that may be repeated."""
        return tuple(self._values.get(name, ()))

    def switch(self, name: str) -> bool:
        """Whether a boolean flag is on."""
        return self.text(name) == "true"

    def find_switch(self, name: str) -> bool | None:
        """The same, None if nothing was said."""
        return self.switch(name) if name in self._values else None


def split_gaps(rest: str) -> tuple[str, ...]:
    """The words between spaces, quotes having no meaning."""
    return tuple(_GAP.split(rest)) if rest else ()


def split_words(rest: str, escape: str) -> list[str]:
    """The words between spaces outside quotes; quotes and escapes stay for the variables' replacement."""
    words: list[str] = []
    word: list[str] = []
    quote, blank_fine, at = "", False, 0

    def end() -> None:
        if word or blank_fine:
            words.append("".join(word))
        word.clear()

    while at < len(rest):
        letter = rest[at]
        at += 1
        if not quote and letter in SPACE:
            end()
            blank_fine = False
        elif letter == escape and quote != "'":
            if at == len(rest):
                break  # one at the very end is dropped
            word.append(letter + rest[at])
            at += 1
        else:
            if quote:
                quote = "" if letter == quote else quote
            elif letter in "'\"":
                quote, blank_fine = letter, True
            word.append(letter)
    end()
    return words


def split_pairs(name: str, rest: str, escape: str) -> tuple[Pair, ...]:
    """What ENV and LABEL set: `KEY=VALUE...`, or the old `KEY value`. Raises DockerfileError."""
    words = split_words(rest, escape)
    if not words:
        raise DockerfileError(f"{name} requires at least one argument")
    if "=" not in words[0]:
        key, *value = _GAP.split(rest, maxsplit=1)
        if not value:
            raise DockerfileError(f"{name} must have two arguments", token=key)
        return (Pair(key, value[0], legacy=True),)
    pairs = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"Syntax error - can't find = in {quoted(word)}. Must be of the form: name=value", token=word
            )
        if not key:
            raise DockerfileError(f"{name} names can not be blank", token=word)
        pairs.append(Pair(key, text))
    return tuple(pairs)


def split_arguments(rest: str, escape: str) -> tuple[Argument, ...]:
    """What ARG declares. Raises DockerfileError."""
    words = split_words(rest, escape)
    if not words:
        raise DockerfileError("ARG requires at least one argument")
    arguments = []
    for word in words:
        name, equals, default = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank", token=word)
        arguments.append(Argument(name, default if equals else None))
    return tuple(arguments)


def parse_array(rest: str) -> tuple[str, ...] | None:
    """The array of the exec form; None if it is none. Raises DockerfileError for an array of anything but strings."""
    if not rest.startswith("["):
        return None
    try:
        items = msgspec.json.decode(rest.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(items, list):
        return None
    if not all(isinstance(item, str) for item in items):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only", token=rest)
    return tuple(items)


def parse_command(rest: str, heredocs: tuple[Heredoc, ...] = ()) -> Command:
    """A command in one of the two forms. Raises DockerfileError."""
    array = parse_array(rest)
    if array is not None:
        return Command(args=array, shell_form=False, heredocs=heredocs)
    return Command(args=(rest,) if rest else (), shell_form=True, heredocs=heredocs)


def parse_list(rest: str) -> tuple[str, ...]:
    """An array, or words between spaces. Raises DockerfileError."""
    array = parse_array(rest)
    return split_gaps(rest) if array is None else array
