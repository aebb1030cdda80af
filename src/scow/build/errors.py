"""What is wrong with a Dockerfile, and where: sentences with file, line and an excerpt."""

from collections.abc import Sequence

import msgspec

from scow.build.suggest import did_you_mean
from scow.errors import InvalidArgument

_AROUND = 2
"""How many lines an excerpt shows before and after those that are meant."""
_MOST_LINES = 12
"""How many of the lines that are meant an excerpt shows at most."""


class Lines(msgspec.Struct, frozen=True):
    """The lines of an instruction in its file, both ends included, counted from 1."""

    start: int
    end: int


class DockerfileError(InvalidArgument):
    """Something in a Dockerfile is wrong.

    `str()` is the one sentence that docker's clients know (`dockerfile parse error on line 2: unknown instruction: RNU
    (did you mean RUN?)`); `report` adds the file and an excerpt with a mark under the word that is meant. Whoever
    parses a piece of a file raises this with what it knows; `located` adds the rest on the way out.
    """

    def __init__(
        self,
        why: str,
        *,
        lines: Lines | None = None,
        token: str | None = None,
        suggestion: str | None = None,
        parsing: bool = True,
    ) -> None:
        """`token` is the word to mark in the excerpt; `parsing` is False for errors of a later stage of the build."""
        self.why = why
        self.lines = lines
        self.token = token
        self.suggestion = suggestion
        self.parsing = parsing
        self.file: str | None = None
        self._source: Sequence[str] = ()
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """What is wrong, with the line."""
        said = self.why + did_you_mean(self.suggestion)
        if self.lines is None:
            return said
        if self.parsing:
            return f"dockerfile parse error on line {self.lines.start}: {said}"
        return f"dockerfile line {self.lines.start}: {said}"

    def located(self, file: str, source: Sequence[str], lines: Lines | None = None) -> "DockerfileError":
        """This error with the file it is about; the innermost caller's word for the lines counts."""
        self.lines = self.lines or lines
        if self.file is None:
            self.file, self._source = file, source
        self.args = (self.sentence,)
        return self

    @property
    def report(self) -> str:
        """The sentence, and below it the file and the lines that are meant between their neighbours."""
        if self.file is None or self.lines is None:
            return self.sentence
        return f"{self.sentence}\n{excerpt(self.file, self._source, self.lines, self.token)}"


class StepFailed(DockerfileError):
    """A step could not be done. The sentence begins with what clients know such a failure by; the excerpt follows."""

    @property
    def sentence(self) -> str:
        """What went wrong."""
        return self.why + did_you_mean(self.suggestion)


def excerpt(file: str, source: Sequence[str], lines: Lines, token: str | None = None) -> str:
    """Show `lines` of a file between their neighbours, `>>>` in front of them and carets below the first `token`."""
    first, last = max(1, lines.start - _AROUND), min(len(source), lines.end + _AROUND)
    shown = [f"{file}:{lines.start}", "-" * 20]
    marked = False
    for number in range(first, last + 1):
        if lines.start + _MOST_LINES <= number <= lines.end:
            if number == lines.end:
                shown.append("     | ...")
            continue
        text = source[number - 1].rstrip("\r\n")
        meant = lines.start <= number <= lines.end
        shown.append(f"{number:4} | {'>>>' if meant else '   '} {text}")
        if meant and token and not marked and token in text:
            marked = True
            column = text.index(token)
            indent = "".join("\t" if letter == "\t" else " " for letter in text[:column])
            shown.append(f"     |     {indent}{'^' * min(len(token), 80)}")
    shown.append("-" * 20)
    return "\n".join(shown)


def quoted(text: str) -> str:
    """`text` in double quotes, as messages show what was written."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in escaped) + '"'
