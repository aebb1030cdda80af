"""Instants are written as Go's RFC3339Nano."""

from datetime import UTC, datetime

import pytest

from scow.wire.times import NEVER, format_datetime, format_time


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_100_000_000, "2023-11-14T22:13:20.1Z"),
    ],
)
def test_trailing_zeros_of_the_fraction_are_dropped(time_ns: int, text: str) -> None:
    assert format_time(time_ns) == text


def test_a_datetime_keeps_its_microseconds() -> None:
    assert format_datetime(datetime(2024, 2, 29, 1, 2, 3, 40, tzinfo=UTC)) == "2024-02-29T01:02:03.00004Z"


def test_what_never_was_is_go_s_zero_time() -> None:
    assert format_datetime(None) == NEVER
