"""Suggestions for misspelt words: the nearest of the words that would have been right."""

from collections.abc import Iterable

_FARTHEST = 3
"""From this many edits on, words are no longer alike."""
_LONGEST = 64
"""Words longer than this are not compared: nobody misspells a name of that length by one letter, and it costs."""


def nearest(word: str, options: Iterable[str], *, same_case: bool = False) -> str | None:
    """The option that `word` was probably meant to be, or None.

    Without `same_case` letters' case doesn't matter, and the suggestion comes in the case that `word` is written in.
    """
    if len(word) > _LONGEST:
        return None
    wanted = word if same_case else word.lower()
    best, best_distance = None, _FARTHEST
    for option in options:
        candidate = option if same_case else option.lower()
        if candidate == wanted:
            return None
        distance = edit_distance(wanted, candidate)
        if distance < best_distance:
            best, best_distance = option, distance
    if best is None or same_case:
        return best
    return best.upper() if word.isupper() else best.lower()


def edit_distance(one: str, other: str) -> int:
    """How many letters to insert, remove, replace or swap with the next one make one word the other."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        current = [i]
        for j, candidate in enumerate(other, 1):
            cost = min(row[j] + 1, current[j - 1] + 1, row[j - 1] + (letter != candidate))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == candidate:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, row = row, current
    return row[-1]


def did_you_mean(suggestion: str | None) -> str:
    """The end of a message that carries a suggestion; empty without one."""
    return f" (did you mean {suggestion}?)" if suggestion else ""
