"""Sizes, durations and points in time."""

import pytest

from scow.cli.timestamps import parse_point, parse_rfc3339
from scow.cli.units import bytes_size, human_duration, human_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (13336, "13.3kB"),
        (1982256, "1.98MB"),
        (1000, "1kB"),
        (999_999, "1e+03kB"),
        (5 * 10**9, "5GB"),
    ],
)
def test_sizes_are_decimal_with_three_digits(size: int, text: str) -> None:
    assert human_size(size) == text


def test_memory_is_binary_with_four_digits() -> None:
    assert bytes_size(25_277_431_808) == "23.54GiB"
    assert bytes_size(2048) == "2KiB"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("10b", 10),
        ("1 k", 1024),
    ],
)
def test_sizes_are_understood(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "xx", "-1m", "1.2.3m", "m", "5x"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid s"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (125, "2 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages_are_rough(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("100ms", 10**8), ("0", 0), ("-5s", -5 * 10**9)],
)
def test_durations_are_those_of_go(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "5x", "s", "1..2s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_times_of_the_wire_are_understood() -> None:
    assert parse_rfc3339("1970-01-02T00:00:00Z") == 86400
    assert parse_rfc3339("2024-05-01T10:00:00.5+02:00") == 1714550400.5


def test_since_takes_durations_times_and_dates() -> None:
    assert parse_point("42m", 10_000.0) == "7480.000000000"
    assert parse_point("1700000000", 0) == "1700000000"
    assert parse_point("2013-01-02T13:23:37Z", 0) == "1357133017.000000000"
    assert parse_point("2013-01-02Z".replace("Z", "T00:00Z"), 0) == "1357084800.000000000"
    with pytest.raises(ValueError, match="failed to parse"):
        parse_point("yesterday", 0)
