"""Command-line flags as docker's tools take them: `-it`, `-p8080:80`, `--rm=false`, `-e -x`, `--name=value`, `--`.

argparse can express neither `--rm=false` nor a value that begins with a dash, and costs more to import than a
whole `scow ps`.
"""

from __future__ import annotations

from scow.cli.errors import FlagError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class Flag:
    """One flag: its names, what kind of value it takes, and how a value is understood.

    `kind` is shown in the help ("string", "list", "bytes"). `many` collects the values in a list. `convert` turns
    the text into a value and raises ValueError with the words that follow `flag: `. `shown` is the help's default.
    """

    __slots__ = ("about", "convert", "default", "hidden", "kind", "many", "name", "short", "shown")

    def __init__(
        self,
        name: str,
        short: str,
        kind: str,
        about: str,
        convert: Callable[[str], object] | None = None,
        default: object = None,
        shown: str = "",
        many: bool = False,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.about = about
        self.many = many or kind in ("list", "map", "strings")
        self.convert = convert
        self.default = default
        self.shown = shown
        self.hidden = hidden
        if kind == "bool":
            self.convert = parse_bool
            self.default = bool(default)
        elif kind in ("int", "uint", "uint16") and convert is None:
            self.convert = parse_int
        elif default is None and not self.many and convert is None:
            self.default = ""

    @property
    def label(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


def parse_bool(text: str) -> bool:
    """Understand a bool as Go does. Raises ValueError in Go's words."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """Understand an integer as Go does (0x.., 0o.. too). Raises ValueError in Go's words."""
    try:
        return int(text, 10)
    except ValueError:
        pass
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def parse_ip(text: str) -> str:
    """Check an IPv4 or IPv6 address. Raises ValueError."""
    import socket

    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None
    return text


class Options:
    """The flags and arguments of one invocation. Ask by the flag's name and the type it has."""

    __slots__ = ("args", "host", "path", "values")

    def __init__(self, values: dict[str, object], given: dict[str, object], args: list[str]) -> None:
        self.values = {**values, **given}
        self.args = args
        self.host = given
        self.path = ""

    def changed(self, name: str) -> bool:
        """Whether the flag was on the command line."""
        return name in self.host

    def flag(self, name: str) -> bool:
        return bool(self.values[name])

    def text(self, name: str) -> str:
        return str(self.values[name] or "")

    def number(self, name: str) -> int:
        value = self.values[name]
        return value if isinstance(value, int) else 0

    def texts(self, name: str) -> list[str]:
        value = self.values[name]
        return [str(item) for item in value] if isinstance(value, list) else []

    def value(self, name: str) -> object:
        return self.values[name]


def _set(flag: Flag, text: str, given: dict[str, object]) -> None:
    value: object = text
    if flag.convert is not None:
        try:
            value = flag.convert(text)
        except ValueError as error:
            raise FlagError(f'invalid argument "{text}" for "{flag.label}" flag: {error}') from None
    if flag.many:
        held = given.setdefault(flag.name, [])
        assert isinstance(held, list)
        if flag.kind == "strings" and isinstance(value, str):
            held.extend(value.split(","))
        else:
            held.append(value)
    else:
        given[flag.name] = value


def parse(flags: Sequence[Flag], words: Sequence[str], interspersed: bool = True) -> Options:
    """Split `words` into flags and arguments. With interspersed False the first argument ends the flags.

    `--help` (and `-h` where no flag has that letter) sets "help". Raises FlagError.
    """
    long = {flag.name: flag for flag in flags}
    short = {flag.short: flag for flag in flags if flag.short}
    given: dict[str, object] = {}
    args: list[str] = []
    rest = list(words)
    rest.reverse()
    while rest:
        word = rest.pop()
        if word == "--":
            args.extend(reversed(rest))
            break
        if len(word) < 2 or word[0] != "-":
            args.append(word)
            if not interspersed:
                args.extend(reversed(rest))
                break
        elif word.startswith("--"):
            _parse_long(word, long, rest, given)
        else:
            _parse_short(word, short, rest, given)
        if "help" in given:
            break
    return Options({flag.name: [] if flag.many else flag.default for flag in flags} | {"help": False}, given, args)


def _parse_long(word: str, long: dict[str, Flag], rest: list[str], given: dict[str, object]) -> None:
    name, equals, text = word[2:].partition("=")
    if not name or name.startswith("-"):
        raise FlagError(f"bad flag syntax: {word}")
    flag = long.get(name)
    if flag is None:
        if name != "help":
            raise FlagError(f"unknown flag: --{name}")
        given["help"] = True
        return
    if not equals:
        if flag.kind == "bool":
            text = "true"
        elif not rest:
            raise FlagError(f"flag needs an argument: --{name}")
        else:
            text = rest.pop()
    _set(flag, text, given)


def _parse_short(word: str, short: dict[str, Flag], rest: list[str], given: dict[str, object]) -> None:
    letters = word[1:]
    while letters:
        letter, tail = letters[0], letters[1:]
        flag = short.get(letter)
        if flag is None:
            if letter != "h":
                raise FlagError(f"unknown shorthand flag: '{letter}' in -{letters}")
            given["help"] = True
            return
        if len(tail) > 1 and tail[0] == "=":
            return _set(flag, tail[1:], given)
        if flag.kind == "bool":
            _set(flag, "true", given)
            letters = tail
            continue
        if tail:
            return _set(flag, tail, given)
        if not rest:
            raise FlagError(f"flag needs an argument: '{letter}' in -{letters}")
        return _set(flag, rest.pop(), given)
