"""From the bytes of a Dockerfile to instructions on one line each: directives, comments, continuations, here-documents.

Dockerfile reference, "Format", "Parser directives" and "Here-Documents".
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from scow.build.errors import DockerfileError, Lines
from scow.build.instructions import Heredoc
from scow.build.shell_words import SPACE, WordError, Words

_DIRECTIVE: Final = re.compile(r"#[\t\n\f\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z")
_HEREDOC: Final = re.compile(r"(\d*)<<(-?)([^<]*)\Z")
_MARK: Final = re.compile(r"\d*<<-?\Z")
_DELIMITER: Final = re.compile(r"""["']?[A-Za-z_][A-Za-z0-9_.-]*["']?\Z""")
_TAKES_HEREDOCS: Final = frozenset(["ADD", "COPY", "RUN"])
_KNOWN_DIRECTIVES: Final = frozenset(["syntax", "escape", "check"])


class Directives(msgspec.Struct, frozen=True, kw_only=True):
    """The parser directives at the top of a file."""

    syntax: str | None = None
    escape: str = "\\"
    check: str | None = None
    lines: dict[str, int] = {}
    """The line that each stands on."""


class LogicalLine(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction, with its continuation lines joined and its heredocs read."""

    text: str
    lines: Lines
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuation: int | None = None
    """The first line that stands empty within the instruction, if there is one."""


def physical_lines(data: bytes | str) -> list[str]:
    """The lines with their ends. What isn't UTF-8 becomes U+FFFD, as it would in an image's config."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text.removeprefix("\ufeff"))
    return lines or [""]


def read_directives(source: list[str]) -> Directives:
    """The directives before the first line that is none. Raises DockerfileError for one given twice or a bad escape."""
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(source, 1):
        match = _DIRECTIVE.match(line.strip(SPACE))
        key = match[1].lower() if match else ""
        if match is None or key not in _KNOWN_DIRECTIVES:
            break
        if key in found:
            raise DockerfileError(
                f"only one {key} parser directive can be used", lines=Lines(number, number), token=match[1]
            )
        found[key], lines[key] = match[2], number
    escape = found.get("escape", "\\")
    if escape not in ("\\", "`"):
        at = Lines(lines["escape"], lines["escape"])
        raise DockerfileError(f"invalid escape token '{escape}' does not match ` or \\", lines=at, token=escape)
    return Directives(syntax=found.get("syntax"), escape=escape, check=found.get("check"), lines=lines)


def logical_lines(source: list[str], escape: str, skip: int = 0) -> Iterator[LogicalLine]:
    """The instructions in order, behind the first `skip` lines (the directives).

    Raises DockerfileError for a heredoc without end.
    """
    continued = re.compile(rf"{re.escape(escape)}[ \t]*\Z")
    comments: list[str] = []
    at = skip
    while at < len(source):
        start = at + 1
        line = _bare(source[at]).lstrip(SPACE)
        at += 1
        if line.startswith("#"):
            comment = line[1:].strip(SPACE)
            comments = [*comments, comment] if comment else []
            continue
        if not line:
            comments = []
            continue
        text, more = _cut(line, continued)
        parts, empty = [text], None
        while more and at < len(source):
            following = _bare(source[at])
            at += 1
            if following.lstrip(SPACE).startswith("#"):
                continue
            if not following.strip(SPACE):
                empty = empty or at
                continue
            text, more = _cut(following, continued)
            parts.append(text)
        joined = "".join(parts)
        documents = []
        for document in heredocs_in(joined, escape):
            begun = at
            body: list[str] = []
            while at < len(source):
                one = _bare(source[at])
                if (one.lstrip("\t") if document.strip_tabs else one) == document.name:
                    break
                body.append(source[at])
                at += 1
            else:
                raise DockerfileError("unterminated heredoc", lines=Lines(start, begun), token=f"<<{document.name}")
            at += 1
            documents.append(msgspec.structs.replace(document, body="".join(body)))
        yield LogicalLine(
            text=joined,
            lines=Lines(start, at),
            comments=tuple(comments),
            heredocs=tuple(documents),
            empty_continuation=empty,
        )
        comments = []


def _bare(line: str) -> str:
    return line.rstrip("\r\n")


def _cut(line: str, continued: re.Pattern[str]) -> tuple[str, bool]:
    """A line without its continuation mark, and whether it had one."""
    found = continued.search(line)
    return (line[: found.start()], True) if found else (line, False)


def heredocs_in(text: str, escape: str) -> list[Heredoc]:
    """The heredocs that an instruction announces, in order, still without their lines."""
    if "<<" not in text:
        return []
    words = text.split(None, 2)
    name = words[1] if words[0].upper() == "ONBUILD" and len(words) > 1 else words[0]
    if name.upper() not in _TAKES_HEREDOCS or is_exec_form(text):
        return []
    try:
        pieces = Words(escape=escape, keep_quotes=True, keep_escapes=True, keep_unset=True).expand(text, {}).words
    except WordError:
        return []  # a command with quotes of its own, as in $'it\'s': what the shell makes of it isn't ours to know
    apart = name.upper() != "RUN" or "((" not in text  # a shift in the shell's arithmetic is no heredoc
    return [
        document
        for piece in (joined_marks(pieces) if apart else pieces)
        if (document := parse_heredoc(piece, escape)) is not None
    ]


def joined_marks(words: Iterable[str]) -> Iterator[str]:
    """Words in which a mark that stands apart from its delimiter (`<< EOF`) is one with it."""
    mark = ""
    for word in words:
        if mark and not _DELIMITER.match(word):
            yield mark
            mark = ""
        if not mark and _MARK.match(word):
            mark = word
            continue
        yield mark + word
        mark = ""
    if mark:
        yield mark


def is_exec_form(text: str) -> bool:
    """Tell whether an instruction's arguments begin an array: then `<<` in it is no heredoc."""
    words = text.split(None, 1)
    rest = words[1] if len(words) > 1 else ""
    if words and words[0].upper() == "ONBUILD":
        return is_exec_form(rest)
    while rest.startswith("--"):
        _, _, rest = rest.partition(" ")
        rest = rest.lstrip(SPACE)
    if not rest.startswith("["):
        return False
    try:
        return isinstance(msgspec.json.decode(rest.encode(), type=list[str]), list)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False


def parse_heredoc(word: str, escape: str = "\\") -> Heredoc | None:
    """The heredoc that a word announces (`<<EOF`, `<<-"EOF"`, `3<<EOF`), without its lines; None if it does not."""
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
        return None
    try:
        names = Words(escape=escape, keep_unset=True).expand(match[3], {}).words
        raw = Words(escape=escape, keep_unset=True, keep_quotes=True, keep_escapes=True).expand(match[3], {}).words
    except WordError:
        return None
    if len(names) != 1:
        return None
    return Heredoc(name=names[0], body="", expand=names == raw, strip_tabs=bool(match[2]))
