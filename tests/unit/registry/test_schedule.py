"""Schedules in cron's fields and by intervals."""

from datetime import UTC, datetime

import pytest

from scow.registry.schedule import Schedule
from scow.registry.settings import SettingsInvalid

NOW = datetime(2026, 11, 30, 5, 52, 42, tzinfo=UTC)  # a Monday


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("every 6h", "2026-11-30T11:52:42"),
        ("every 90 s", "2026-11-30T05:54:12"),
        ("* * * * *", "2026-11-30T05:53:00"),
        ("0 3 * * *", "2026-12-01T03:00:00"),
        ("*/15 * * * *", "2026-11-30T06:00:00"),
        ("5/20 * * * *", "2026-11-30T06:05:00"),
        ("0 0 1 jan *", "2027-01-01T00:00:00"),
        ("30 4 * * sat,sun", "2026-12-05T04:30:00"),
        ("0 9-17/4 * * 1-5", "2026-11-30T09:00:00"),
        ("0 0 13 * 5", "2026-12-04T00:00:00"),  # the 13th or any Friday
        ("0 0 * * 7", "2026-12-06T00:00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00"),
        ("@daily", "2026-12-01T00:00:00"),
    ],
)
def test_the_next_time_is_found(text: str, following: str) -> None:
    found = Schedule(text, "test").next(NOW)
    assert found is not None
    assert found.isoformat() == f"{following}+00:00"


@pytest.mark.parametrize("text", ["", "0 3 * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-2 * * * *", "every 0h",
                                  "every day", "0 0 31 2 *", "x * * * *"])  # fmt: skip
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid):
        Schedule(text, "test")
