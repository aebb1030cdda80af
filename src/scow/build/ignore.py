"""What `.dockerignore` keeps out of a build context.

The rules are those of docker's pattern matcher: each line a pattern of Go's filepath.Match, where `**` stands for any
number of directories; a leading slash means nothing; a path is out if it or a directory above it matches; `!` takes
back in, and the last line that matches decides.

This module imports nothing but the standard library's lightest: the client uses it too, when it packs a context.
"""

import re

_ANY_DIRECTORIES = "**"
_ANY_NAME = "*"
_MOST_REMEMBERED = 20_000


class BadPattern(ValueError):
    """A pattern is malformed."""


class _Pattern:
    """One line."""

    def __init__(self, text: str) -> None:
        self.exclusion = text.startswith("!")
        self.text = text[1:] if self.exclusion else text
        self.fixed = re.split(r"[*?\[\\]", self.text, maxsplit=1)[0]
        """What every path that matches begins with."""
        tokens = _tokens(self.text)
        wild = [index for index, (kind, _) in enumerate(tokens) if kind]
        self.expression: re.Pattern[str] | None = None
        self.prefix = self.suffix = None
        if not wild and self.fixed == self.text:
            pass  # the path itself
        elif wild == [len(tokens) - 1] == [1] and tokens[1][0] == _ANY_DIRECTORIES and self.fixed == self.text[:-2]:
            self.prefix = self.fixed  # `docs/**`: what is below, not the directory itself
        elif wild == [0] and tokens[0][0] == _ANY_DIRECTORIES and not re.search(r"[*?\[\\]", self.text[2:]):
            self.suffix = self.text[2:]  # `**/name`, and docker's `**name`
        else:
            self.expression = re.compile(_assembled(tokens), re.DOTALL)

    def matches(self, path: str) -> bool:
        if self.expression is not None:
            return self.expression.match(path) is not None
        if self.prefix is not None:
            return path.startswith(self.prefix)
        if self.suffix is not None:
            return path.endswith(self.suffix) or (self.suffix[:1] == "/" and path == self.suffix[1:])
        return path == self.text


def compile_name(pattern: str) -> re.Pattern[str]:
    """A pattern for one name, in which two stars are no more than one; to be matched. Raises BadPattern."""
    return re.compile(_assembled(_tokens(pattern, directories=False)), re.DOTALL)


def _tokens(pattern: str, *, directories: bool = True) -> list[tuple[str, str]]:
    """The pattern as wildcards and, between them, regular expressions of fixed width. Raises BadPattern."""
    tokens: list[tuple[str, str]] = []
    literal: list[str] = []

    def wildcard(kind: str) -> None:
        if literal:
            tokens.append(("", "".join(literal)))
            literal.clear()
        if not (tokens and tokens[-1][0] == kind):  # twice is no more than once
            tokens.append((kind, ""))

    at = 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*" and directories and pattern.startswith("*", at):
            at += 1
            if pattern.startswith("/", at) and at + 1 <= len(pattern):
                at += 1
            wildcard(_ANY_DIRECTORIES)
        elif letter == "*":
            wildcard(_ANY_NAME)
        elif letter == "?":
            literal.append("[^/]")
        elif letter == "[":
            klass, at = _class(pattern, at)
            literal.append(klass)
        elif letter == "\\":
            if at == len(pattern):
                raise BadPattern(f"syntax error in pattern: {pattern}")
            literal.append(re.escape(pattern[at]))
            at += 1
        else:
            literal.append(re.escape(letter))
    if literal:
        tokens.append(("", "".join(literal)))
    return tokens


def _assembled(tokens: list[tuple[str, str]]) -> str:
    """The regular expression for tokens.

    A wildcard that is followed by another of its kind takes the nearest match of what stands between them, for good
    (an atomic group): what is left is then as much as can be, and no pattern makes the search try all combinations.
    """
    parts: list[str] = []
    index = 0
    while index < len(tokens):
        kind, text = tokens[index]
        index += 1
        if not kind:
            parts.append(text)
            continue
        between = tokens[index][1] if index < len(tokens) and not tokens[index][0] else ""
        following = tokens[index + 1][0] if between and index + 1 < len(tokens) else ""
        if kind == _ANY_NAME:
            if following == _ANY_NAME:
                parts.append(f"(?>[^/]*?{between})")
                index += 1
            else:
                parts.append("[^/]*")
        elif index == len(tokens):
            parts.append(".*")
        elif following == _ANY_DIRECTORIES and between.endswith("/"):
            parts.append(f"(?>(?:.*?/)??{between})")
            index += 1
        else:
            parts.append("(?:.*/)?")
    return "".join(parts) + r"\Z"


def _class(pattern: str, at: int) -> tuple[str, int]:
    """The character class that begins behind a bracket at `at`, and where it ends. Raises BadPattern."""
    negated = pattern[at : at + 1] in ("^", "!") and pattern[at] == "^"
    at += negated
    ranges: list[str] = []
    while True:
        if pattern[at : at + 1] == "]" and ranges:
            return f"[{'^/' if negated else ''}{''.join(ranges)}]", at + 1
        low, at = _class_letter(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _class_letter(pattern, at + 1)
        if low > high:
            raise BadPattern(f"syntax error in pattern: {pattern}")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")


def _class_letter(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at : at + 1] == "\\":
        at += 1
        if at < len(pattern):
            return pattern[at], at + 1
    elif at < len(pattern) and pattern[at] not in "-]":
        return pattern[at], at + 1
    raise BadPattern(f"syntax error in pattern: {pattern}")


def read_patterns(text: str) -> list[str]:
    """The patterns of an ignore file: comments and empty lines left out, paths cleaned, leading slashes removed."""
    patterns = []
    for number, line in enumerate(text.split("\n")):
        if number == 0:
            line = line.removeprefix("\ufeff")
        if line.startswith("#"):
            continue
        line = line.strip()
        inverted = line.startswith("!")
        if inverted:
            line = line[1:].strip()
        if line:
            line = _cleaned(line)
            if len(line) > 1 and line[0] == "/":
                line = line[1:]
        if inverted:
            line = "!" + line
        if line:
            patterns.append(line)
    return patterns


def _cleaned(path: str) -> str:
    """A path without `.`, `..`, doubled and trailing slashes, as Go's filepath.Clean."""
    rooted = path.startswith("/")
    names: list[str] = []
    for name in path.split("/"):
        if name == ".." and names and names[-1] != "..":
            names.pop()
        elif name == ".." and rooted:
            continue
        elif name not in ("", "."):
            names.append(name)
    return ("/" if rooted else "") + "/".join(names) or "."


def ignore_files(dockerfile: str) -> tuple[str, str]:
    """Where the patterns of a build with this Dockerfile are looked for: its own file wins over the context's."""
    return f"{dockerfile}.dockerignore", ".dockerignore"


class Ignore:
    """The patterns of one file, ready to be asked about paths: relative, with slashes."""

    def __init__(self, patterns: list[str]) -> None:
        """Raises BadPattern, also for a lone `!`."""
        self._patterns: list[_Pattern] = []
        for text in patterns:
            text = text.strip()
            if not text:
                continue
            if text == "!":
                raise BadPattern('illegal exclusion pattern: "!"')
            inverted = text.startswith("!")
            self._patterns.append(_Pattern("!" * inverted + _cleaned(text[inverted:])))
        self.has_exclusions = any(pattern.exclusion for pattern in self._patterns)
        """Whether something is taken back in."""
        self._above: dict[str, list[bool]] = {}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def excludes(self, path: str) -> bool:
        """Whether a path is kept out, by itself or by a directory above it. The root never is."""
        if not self._patterns or path in ("", "."):
            return False
        above = self._matched_by(path.rpartition("/")[0])
        excluded = False
        for pattern, matched in zip(self._patterns, above, strict=True):
            # A pattern that could only say what is so already isn't asked.
            if pattern.exclusion == excluded and (matched or pattern.matches(path)):
                excluded = not pattern.exclusion
        return excluded

    def prunes(self, path: str) -> bool:
        """Whether a directory and all below it is kept out, so that nobody has to look inside."""
        if not self.excludes(path):
            return False
        below = path + "/"
        return not any(
            pattern.fixed.startswith(below) or below.startswith(pattern.fixed)
            for pattern in self._patterns
            if pattern.exclusion
        )

    def _matched_by(self, directory: str) -> list[bool]:
        """Which patterns match a directory or one above it."""
        missing = []
        while directory and directory not in self._above:
            missing.append(directory)
            directory = directory.rpartition("/")[0]
        found = self._above[directory] if directory else [False] * len(self._patterns)
        if len(self._above) > _MOST_REMEMBERED:
            self._above.clear()
        for name in reversed(missing):
            found = [was or pattern.matches(name) for was, pattern in zip(found, self._patterns, strict=True)]
            self._above[name] = found
        return found


def with_build_files(patterns: list[str], *names: str) -> list[str]:
    """Patterns that let the build's own files through: the builder reads them, though they may not be for COPY."""
    ignore = Ignore(patterns)
    return [*patterns, *(f"!{name}" for name in names if ignore.excludes(name))]
