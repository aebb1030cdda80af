"""Limits of logs, and their files."""

from pathlib import Path

import pytest

from scow.engine.log_limits import LogLimits, files_of, limits_of, shift
from scow.errors import InvalidArgument
from scow.wire.host_config import LogConfig


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("json-file", {}, LogLimits(100 << 20, 2)),
        ("json-file", {"max-size": "10m"}, LogLimits(10 << 20, 1)),
        ("json-file", {"max-size": "1.5k", "max-file": "3"}, LogLimits(1536, 3)),
        ("json-file", {"max-size": "-1"}, LogLimits(None, 1)),
        ("local", {}, LogLimits(20 << 20, 5)),
        ("local", {"max-size": "1GB"}, LogLimits(1 << 30, 5)),
    ],
)
def test_options_are_limits(driver: str, options: dict[str, str], expected: LogLimits) -> None:
    assert limits_of(LogConfig(type=driver, config=options)) == expected


@pytest.mark.parametrize("options", [{"max-size": "much"}, {"max-size": "0"}, {"max-file": "0"}, {"max-file": "x"}])
def test_nonsense_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        limits_of(LogConfig(type="json-file", config=options))


def test_files_get_numbers_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in ("a", "b", "c", "d"):
        path.write_text(text)
        shift(path, 3)
    path.write_text("e")
    assert [file.read_text() for file in files_of(path)] == ["c", "d", "e"]
