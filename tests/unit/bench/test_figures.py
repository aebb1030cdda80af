"""The arithmetic of the measurements."""

import pytest
from bench.figures import Result, figure, format_quantity, ratio, table


def test_the_best_sample_is_the_shortest_time_and_the_highest_rate() -> None:
    assert figure([3.0, 1.0, 2.0], "s")[:2] == (2.0, 1.0)
    assert figure([3.0, 1.0, 2.0], "B/s")[:2] == (2.0, 3.0)
    assert figure([3.0, 1.0], "s").median == 2.0


@pytest.mark.parametrize(("unit", "expected"), [("s", 4.0), ("B", 4.0), ("/s", 0.125), ("B/s", 0.125)])
def test_a_ratio_above_one_means_better_than_the_best_peer(unit: str, expected: float) -> None:
    figures = {"scow": figure([1.0], unit), "dockerd": figure([4.0], unit), "podman": figure([8.0], unit)}
    assert ratio(Result("x", "X", unit, figures)) == expected


def test_there_is_no_ratio_without_a_peer_or_without_scow() -> None:
    assert ratio(Result("x", "X", "s", {"scow": figure([1.0], "s")})) is None
    assert ratio(Result("x", "X", "s", {"podman": figure([1.0], "s")})) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0468, "s", "46.8 ms"),
        (1.234, "s", "1.23 s"),
        (0.0000042, "s", "4.20 us"),
        (36.4 * (1 << 20), "B", "36.4 MiB"),
        (153e6, "B/s", "153 MB/s"),
        (1.29e9, "B/s", "1.29 GB/s"),
        (40.24, "/s", "40.2 /s"),
        (0.0, "B", "0.00 B"),
    ],
)
def test_quantities_have_three_digits_and_a_fitting_unit(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


def test_the_table_marks_what_an_engine_cannot_do() -> None:
    results = [
        Result("run", "docker run", "s", {"scow": figure([0.1, 0.2, 0.3], "s"), "dockerd": figure([0.4], "s")}),
        Result("list", "list", "s", {"scow": figure([0.005], "s")}),
    ]
    assert table(results, ["scow", "dockerd"]).splitlines() == [
        "case        scow               dockerd          against best peer",
        "docker run  200 ms (100 ms)    400 ms (400 ms)  2.00 x",
        "list        5.00 ms (5.00 ms)  -                -",
    ]
