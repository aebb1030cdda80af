"""The patterns of `${name#pattern}` and its like: `*` any number of characters, `?` one, `\\` takes the next as it is.

Everything here costs at most the product of the two lengths, whatever was written: a star is matched by looking for the
piece of pattern behind it, never by trying all ways.
"""

import re

_PIECES = re.compile(r"\\(.)|(\*+)|(\?)|([^\\*?]+)|(\\)\Z", re.DOTALL)


class Glob:
    """A pattern that is matched at a place in a text."""

    def __init__(self, pattern: str) -> None:
        """Raises ValueError if a backslash stands before anything but `*`, `?` or itself."""
        self.pieces: list[list[str | None]] = [[]]  # between stars; None stands for any one character
        for escaped, star, any_one, literal, loose in _PIECES.findall(pattern):
            if loose or (escaped and escaped not in r"\*?/}"):
                raise ValueError(f"invalid escape '\\{escaped}'" if escaped else "invalid escape at the end")
            if star:
                self.pieces.append([])
            elif any_one:
                self.pieces[-1].append(None)
            else:
                self.pieces[-1].extend(escaped or literal)
        self._set_up()

    def _set_up(self) -> None:
        self._compiled = [
            re.compile("".join("." if one is None else re.escape(one) for one in piece), re.DOTALL)
            for piece in self.pieces
        ]

    def reversed(self) -> "Glob":
        """The pattern that matches the reversed texts."""
        other = Glob("")
        other.pieces = [piece[::-1] for piece in reversed(self.pieces)]
        other._set_up()
        return other

    def match(self, text: str, start: int, *, longest: bool) -> int | None:
        """The end of what matches from `start` on; None if nothing does."""
        found = self._compiled[0].match(text, start)
        if found is None:
            return None
        at = found.end()
        for index, piece in enumerate(self._compiled[1:], 1):
            if longest and index == len(self._compiled) - 1:
                width = len(self.pieces[index])
                return next(
                    (end for end in range(len(text), at + width - 1, -1) if piece.match(text, end - width)), None
                )
            found = piece.search(text, at)
            if found is None:
                return None
            at = found.end()
        return at

    def search(self, text: str, start: int) -> tuple[int, int] | None:
        """The first place from `start` on where the pattern matches something, and the longest match there."""
        at = start
        while (found := self._compiled[0].search(text, at)) is not None:
            end = self.match(text, found.start(), longest=True)
            if end is None:
                return None  # the pieces behind the first star are nowhere behind this place, so behind no later one
            if end > found.start():
                return found.start(), end
            at = found.start() + 1
            if at > len(text):
                break
        return None


def without_prefix(text: str, pattern: str, *, longest: bool) -> str:
    """`text` without the shortest or longest beginning that matches. Raises ValueError for a bad pattern."""
    end = Glob(pattern).match(text, 0, longest=longest)
    return text if end is None else text[end:]


def without_suffix(text: str, pattern: str, *, longest: bool) -> str:
    """`text` without the shortest or longest end that matches. Raises ValueError for a bad pattern."""
    end = Glob(pattern).reversed().match(text[::-1], 0, longest=longest)
    return text if end is None else text[: len(text) - end]


def replaced(text: str, pattern: str, replacement: str, *, everywhere: bool, limit: int) -> str:
    """`text` with `replacement` where the pattern matches, first or everywhere.

    Raises ValueError for a bad pattern, and for a result of more than `limit` characters.
    """
    glob, parts, at, size = Glob(pattern), [], 0, len(text)
    while (found := glob.search(text, at)) is not None:
        parts += [text[at : found[0]], replacement]
        size += len(replacement)
        if size > limit + len(text):
            raise ValueError(f"it would become longer than {limit} characters")
        at = found[1]
        if not everywhere:
            break
    return "".join([*parts, text[at:]])
