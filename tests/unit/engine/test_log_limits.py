"""Limits of logs."""

import pytest

from scow.engine.log_limits import LogLimits, limits_of
from scow.engine.log_options import keeps_cache
from scow.errors import InvalidArgument
from scow.wire.host_config import LogConfig


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("json-file", {}, LogLimits(100 << 20, 2)),
        ("json-file", {"max-size": "10m"}, LogLimits(10 << 20, 1)),
        ("json-file", {"max-size": "1.5k", "max-file": "3"}, LogLimits(1536, 3)),
        ("json-file", {"max-size": "-1"}, LogLimits(None, 1)),
        ("json-file", {"max-size": "1m", "max-file": "3", "compress": "true"}, LogLimits(1 << 20, 3, True)),
        ("local", {"compress": "false", "max-file": "1"}, LogLimits(20 << 20, 1)),
        ("syslog", {"cache-compress": "0"}, LogLimits(20 << 20, 5)),
        ("local", {}, LogLimits(20 << 20, 5, True)),
        ("local", {"max-size": "1GB"}, LogLimits(1 << 30, 5, True)),
    ],
)
def test_options_are_limits(driver: str, options: dict[str, str], expected: LogLimits) -> None:
    assert limits_of(LogConfig(type=driver, config=options)) == expected


@pytest.mark.parametrize("options", [{"max-size": "much"}, {"max-size": "0"}, {"max-file": "0"}, {"max-file": "x"}])
def test_nonsense_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        limits_of(LogConfig(type="json-file", config=options))


@pytest.mark.parametrize(
    ("driver", "options", "kept"),
    [
        ("json-file", {}, True),
        ("none", {}, False),
        ("syslog", {}, True),
        ("syslog", {"cache-disabled": "true"}, False),
        ("journald", {"cache-disabled": "true"}, True),  # docker reads a journal without a cache
    ],
)
def test_what_can_be_read_back(driver: str, options: dict[str, str], kept: bool) -> None:
    assert keeps_cache(LogConfig(type=driver, config=options)) is kept
