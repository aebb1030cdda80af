"""Environment replacement: `$name` and `${name...}` with all modifiers, quotes and escapes. Dockerfile reference,
"Environment replacement".

The rules are a small shell's: single quotes keep everything, double quotes all but variables; the escape character
(`\\`, or a backtick by directive) takes the next character as it is, in double quotes only `"`, `$` and itself.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from scow.build.glob import replaced, without_prefix, without_suffix

SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What separates words, as Go's unicode.IsSpace sees it."""
_SPECIAL: Final = frozenset("@*#?-$!0")
LONGEST: Final = 1 << 20
"""How many characters a text may become: a few lines could ask for more than there is memory."""
_MOST_READ: Final = 4 * LONGEST  # what is read on the way counts once for each level that it goes through
_PATTERN_WORK: Final = 1 << 26  # characters of a value times those of a pattern
_SPACES: Final = re.compile(f"[{SPACE}]")
_DEEPEST: Final = 40
"""How many `${a:-${b:-...}}` may be inside each other."""


class WordError(ValueError):
    """A word has an unfinished quote, a bad substitution, or demands a variable that is not set."""


class Expansion(msgspec.Struct, frozen=True):
    """What became of a word, and which variables had a say in it."""

    text: str
    words: tuple[str, ...] = ()
    used: frozenset[str] = frozenset()
    """Variables that were looked at, set or not: what the result depends on."""
    unset: frozenset[str] = frozenset()
    """Variables that were asked for without a default, and have no value."""


def expand(text: str, env: Mapping[str, str], *, escape: str = "\\") -> str:
    """`text` with variables replaced and quotes removed. Raises WordError."""
    return Words(escape=escape).expand(text, env).text


class Words:
    """One way of reading words: which escape character, and what of the notation stays in the result."""

    def __init__(
        self,
        *,
        escape: str = "\\",
        keep_unset: bool = False,
        keep_quotes: bool = False,
        keep_escapes: bool = False,
        plain_quotes: bool = False,
    ) -> None:
        """`keep_unset` leaves `$name` of an unset variable; `plain_quotes` takes quotes for ordinary letters."""
        self.escape = escape
        self.keep_unset = keep_unset
        self.keep_quotes = keep_quotes
        self.keep_escapes = keep_escapes
        self.plain_quotes = plain_quotes

    def expand(self, text: str, env: Mapping[str, str]) -> Expansion:
        """Read `text` with the variables of `env`. Raises WordError."""
        reader = _Reader(text, env, self)
        result = reader.until(None)
        if len(result) > LONGEST:
            raise WordError(f"it would become longer than {LONGEST} characters")
        return Expansion(result, tuple(reader.words.finish()), frozenset(reader.used), frozenset(reader.unset))


class _Splitter:
    """Collects words while a text is read: characters that split, and those that don't since they were quoted."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._word: list[str] = []
        self._inside = False

    def add(self, text: str) -> None:
        first, *others = _SPACES.split(text)
        if first:
            self.add_raw(first)
        for piece in others:
            self._end()
            if piece:
                self.add_raw(piece)

    def add_raw(self, text: str) -> None:
        self._word.append(text)
        self._inside = True

    def _end(self) -> None:
        if self._inside:
            self._done.append("".join(self._word))
            self._word, self._inside = [], False

    def finish(self) -> list[str]:
        self._end()
        return self._done


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str, env: Mapping[str, str], how: Words) -> None:
        self._text, self._env, self._how = text, env, how
        self._at = 0
        self._depth = 0
        self._size = 0
        self.words = _Splitter()
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        letter = self._peek()
        self._at += 1
        return letter

    def until(self, stop: str | None, *, keep_escapes: bool = False) -> str:
        """The text up to `stop`, which is taken too, or up to the end."""
        how = self._how
        result: list[str] = []
        keep_escapes = keep_escapes or how.keep_escapes
        words = self.words if stop is None else _Splitter()
        ordinary = _ordinary(how.escape, stop or "")
        while letter := self._peek():
            if letter == stop:
                self._at += 1
                return "".join(result)
            if letter == "$":
                piece = self._variable()
                words.add(piece)
            elif letter in "'\"" and not how.plain_quotes:
                piece = self._single_quoted() if letter == "'" else self._double_quoted(keep_escapes)
                words.add_raw(piece)
            elif letter == how.escape:
                self._at += 1
                piece = (letter if keep_escapes else "") + self._next()
                if piece or self._peek():
                    words.add_raw(piece)
            else:
                found = ordinary.match(self._text, self._at)
                piece = found[0] if found else letter
                self._at += len(piece)
                words.add(piece)
            result.append(piece)
            self._grow(piece)
        if stop is not None:
            raise WordError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result)

    def _grow(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > _MOST_READ:
            raise WordError(f"it would become longer than {LONGEST} characters")

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise WordError("unexpected end of statement while looking for matching single-quote")
        inside = self._text[self._at + 1 : end]
        self._at = end + 1
        return f"'{inside}'" if self._how.keep_quotes else inside

    def _double_quoted(self, keep_escapes: bool) -> str:
        self._at += 1
        result: list[str] = []
        ordinary = _ordinary(self._how.escape, "")
        while letter := self._peek():
            if found := ordinary.match(self._text, self._at):
                self._at = found.end()
                result.append(found[0])
                continue
            if letter == '"':
                self._at += 1
                inside = "".join(result)
                return f'"{inside}"' if self._how.keep_quotes else inside
            if letter == "$":
                result.append(self._variable())
                self._grow(result[-1])
                continue
            self._at += 1
            if letter == self._how.escape:
                following = self._peek()
                if following and following in ('"', "$", self._how.escape):
                    letter = (letter if keep_escapes else "") + self._next()
            result.append(letter)
        raise WordError("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        self._at += 1
        if self._peek() == "{":
            self._at += 1
            self._depth += 1
            if self._depth > _DEEPEST:
                raise WordError("syntax error: substitutions are nested too deeply")
            value = self._braced()
            self._depth -= 1
            return value
        name = self._name()
        if not name:
            return "$"
        return self._value(name, f"${name}")

    def _name(self) -> str:
        start = self._at
        letter = self._peek()
        if letter and letter in "0123456789":
            while (letter := self._peek()) and letter in "0123456789":
                self._at += 1
        elif letter in _SPECIAL:
            self._at += 1
        else:
            while (letter := self._peek()) and (letter == "_" or letter.isalnum()):
                self._at += 1
        return self._text[start : self._at]

    def _look_up(self, name: str) -> str | None:
        self.used.add(name)
        return self._env.get(name)

    def _value(self, name: str, notation: str) -> str:
        value = self._look_up(name)
        if value is not None:
            return value
        self.unset.add(name)
        return notation if self._how.keep_unset else ""

    def _braced(self) -> str:
        start = self._at - 2
        if not self._peek():
            raise WordError("syntax error: missing '}'")
        name = self._name()
        if not name or self._peek() == "{":
            raise WordError("syntax error: bad substitution")
        sign = self._next()
        if not sign:
            raise WordError("syntax error: missing '}'")
        if sign == "}":
            return self._value(name, f"${{{name}}}")
        if sign in "#%/":
            return self._pattern(name, sign, start)
        empty_is_unset = sign == ":"
        if empty_is_unset:
            sign = self._next()
        if not sign or sign not in "-+?":
            raise WordError(f"unsupported modifier ({':' * empty_is_unset}{sign}) in substitution")
        word = self.until("}")
        value = self._look_up(name)
        if value is None and self._how.keep_unset:
            return self._text[start : self._at]
        missing = value is None or (empty_is_unset and not value)
        if sign == "+":
            return "" if missing else word
        if not missing and value is not None:
            return value
        if sign == "-":
            return word
        raise WordError(f"{name}: {word or ('not allowed to be ' + ('unset' if value is None else 'empty'))}")

    def _pattern(self, name: str, sign: str, start: int) -> str:
        longest = self._peek() == sign
        if longest:
            self._at += 1
        if sign == "/":
            pattern = self.until("/", keep_escapes=True)
            replacement = self.until("}")
        else:
            pattern, replacement = self.until("}", keep_escapes=True), ""
        value = self._look_up(name)
        if value is None:
            self.unset.add(name)
            return self._text[start : self._at] if self._how.keep_unset else ""
        if self._how.escape != "\\":
            pattern = _with_backslashes(pattern, self._how.escape)
        if len(value) * len(pattern) > _PATTERN_WORK:
            raise WordError(f"{name} and the pattern are too long for a substitution")
        try:
            if sign == "#":
                return without_prefix(value, pattern, longest=longest)
            if sign == "%":
                return without_suffix(value, pattern, longest=longest)
            return replaced(value, pattern, replacement, everywhere=longest, limit=LONGEST)
        except ValueError as error:
            raise WordError(f"invalid pattern ({pattern}) in substitution: {error}") from error


@lru_cache(maxsize=64)
def _ordinary(escape: str, stop: str) -> re.Pattern[str]:
    """As many letters as mean nothing but themselves."""
    return re.compile(f"[^$'\"{re.escape(escape)}{re.escape(stop)}]+")


def _with_backslashes(pattern: str, escape: str) -> str:
    """A pattern in which backslashes escape, and have no meaning of their own besides."""
    escaped = pattern.replace("\\", "\\\\")
    return escaped.replace(escape, "\\")
