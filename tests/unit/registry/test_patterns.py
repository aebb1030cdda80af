"""Patterns of names: what they match, and that no name makes them slow."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scow.registry.patterns import matches


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("team/*", ["team/a", "team/"], ["team", "team/a/b", "xteam/a"]),
        ("team/**", ["team/a", "team/a/b"], ["team", "steam/a"]),
        ("**", ["", "a", "a/b"], []),
        ("**/test", ["a/test", "a/b/test"], ["test", "a/test/b"]),
        ("**a*b", ["a/ab", "xa.b"], ["a/b", "ab/"]),
        ("v*.*", ["v1.2", "v1.2.3"], ["v1", "w1.2"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_what_a_pattern_stands_for(pattern: str, names: list[str], others: list[str]) -> None:
    assert [name for name in [*names, *others] if matches(name, pattern)] == names


def by_definition(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern.startswith("*"):
        wide = pattern.startswith("**")
        rest = pattern.removeprefix("**" if wide else "*")
        ends = (end for end in range(len(text) + 1) if wide or "/" not in text[:end])
        return any(by_definition(text[end:], rest) for end in ends)
    return text[:1] == pattern[0] and by_definition(text[1:], pattern[1:])


@given(
    st.text(alphabet="ab/", max_size=8),
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "b/"]), max_size=7).map("".join),
)
@example("a/ab", "**a*b")
def test_a_pattern_stands_for_what_its_definition_says(text: str, pattern: str) -> None:
    assert matches(text, pattern) == by_definition(text, pattern)


@pytest.mark.parametrize("pattern", ["**a**a**a**a**a**a**b", "*a*a*a*a*a*a*a*b", "v*.*.*.*.*.*.*-x"])
@pytest.mark.parametrize("name", ["a" * 255, "a/" * 127, "v" + "." * 254])
def test_no_name_makes_a_pattern_slow(pattern: str, name: str) -> None:
    assert not matches(name, pattern)  # which would take minutes if each wildcard tried each place
