"""Progress lines carry docker's words and docker's bar."""

import json

import pytest

from scow.wire.message import encode
from scow.wire.progress import ErrorDetail, ProgressDetail, ProgressMessage, bar_text, human_size, progress_step


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1, "1B"), (999, "999B"), (1000, "1kB"), (1234, "1.234kB"), (12345, "12.35kB"), (2_210_000, "2.21MB")],
)
def test_sizes_have_four_digits_and_decimal_units(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        (ProgressDetail(), ""),
        (ProgressDetail(current=1), "      1B"),
        (ProgressDetail(current=20, total=100), "[==========>                                        ]      20B/100B"),
        (ProgressDetail(current=100, total=100), "[==================================================>]     100B/100B"),
        (ProgressDetail(current=50, total=40), "[==================================================>]      50B"),
        (ProgressDetail(current=3, units="s"), "3 s"),
    ],
)
def test_the_bar_is_docker_s(detail: ProgressDetail, text: str) -> None:
    assert bar_text(detail) == text


def test_a_step_without_numbers_has_an_empty_detail() -> None:
    line = encode(progress_step("0123456789ab", "Pulling fs layer"))
    assert json.loads(line) == {"status": "Pulling fs layer", "progressDetail": {}, "id": "0123456789ab"}


def test_a_failure_is_told_twice() -> None:
    line = encode(ProgressMessage(error_detail=ErrorDetail(message="no"), error="no"))
    assert json.loads(line) == {"errorDetail": {"message": "no"}, "error": "no"}
