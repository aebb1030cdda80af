"""What is made of the samples: medians, ratios to the best peer, and the table that a person reads."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SUBJECT = "scow"

_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    "B": ((1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")),
    "B/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")),
    "/s": ((1.0, "/s"),),
}


class Figure(NamedTuple):
    """One case on one engine; units are seconds, bytes, bytes a second or things a second."""

    median: float
    best: float
    samples: tuple[float, ...]


class Result(NamedTuple):
    """One case on all engines that can do it."""

    case: str
    title: str
    unit: str
    figures: Mapping[str, Figure]


def higher_is_better(unit: str) -> bool:
    """Rates grow, times and sizes shrink."""
    return unit.endswith("/s")


def figure(samples: Sequence[float], unit: str) -> Figure:
    """Reduce samples, of which there is at least one."""
    best = max(samples) if higher_is_better(unit) else min(samples)
    return Figure(statistics.median(samples), best, tuple(samples))


def ratio(result: Result) -> float | None:
    """How many times better Scow's median is than the best peer's; None without a peer or without Scow."""
    ours = result.figures.get(SUBJECT)
    theirs = [each.median for name, each in result.figures.items() if not name.startswith(SUBJECT)]
    if ours is None or not theirs:
        return None
    if higher_is_better(result.unit):
        return ours.median / max(theirs)
    return min(theirs) / ours.median if ours.median else None


def format_quantity(value: float, unit: str) -> str:
    """Three digits and the unit that suits the size."""
    scales = _SCALES[unit]
    factor, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    scaled = value / factor
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f} {name}"


def table(results: Sequence[Result], engines: Sequence[str]) -> str:
    """A line for each case: median (best) of each engine, '-' where it can't do it, and the ratio to the best peer."""
    rows = [["case", *engines, "against best peer"]]
    for result in results:
        cells = []
        for engine in engines:
            found = result.figures.get(engine)
            cells.append(
                "-"
                if found is None
                else f"{format_quantity(found.median, result.unit)} ({format_quantity(found.best, result.unit)})"
            )
        times = ratio(result)
        rows.append([result.title, *cells, "-" if times is None else f"{times:.2f} x"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
