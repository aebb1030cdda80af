"""Progress lines of pull, push, build and load, with the text of docker's progress bar."""

from typing import Any, Final

from msgspec import field

from scow.wire.message import SparseMessage


class ProgressDetail(SparseMessage, frozen=True, kw_only=True, rename="lower"):
    """How far a step is, in bytes unless `units` says otherwise; `{}` on the wire when nothing is known."""

    current: int = 0
    total: int = 0
    start: int = 0  # seconds since the epoch
    hide_counts: bool = field(name="hidecounts", default=False)
    units: str = ""


class ErrorDetail(SparseMessage, frozen=True, kw_only=True, rename="lower"):
    """Why a stream failed after it had begun; `code` is a build step's exit status."""

    code: int = 0
    message: str


class ProgressMessage(SparseMessage, frozen=True, kw_only=True, rename="camel"):
    """One line of a progress stream."""

    stream: str = ""
    status: str = ""
    progress_detail: ProgressDetail | None = None
    progress: str = ""
    id: str = ""
    error_detail: ErrorDetail | None = None
    error: str = ""
    aux: Any = None


def progress_step(id: str, status: str, current: int = 0, total: int = 0) -> ProgressMessage:
    """Make the line of one step `id`, with docker's bar text if there is something to draw."""
    detail = ProgressDetail(current=current, total=total)
    return ProgressMessage(id=id, status=status, progress_detail=detail, progress=bar_text(detail))


def bar_text(detail: ProgressDetail) -> str:
    """Draw the bar: `[=====>      ]  1.2MB/3.4MB`, empty if nothing is known. As moby at 200 columns."""
    current, total = detail.current, detail.total
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{current} {detail.units}" if detail.units else f"{human_size(current):>8}"
    half = min(int(current / total * 100) // 2, 50)
    bar = f"[{'=' * half}>{' ' * (50 - half)}] "
    if detail.hide_counts:
        return bar
    if detail.units:
        return bar + (f"{current}/{total} {detail.units}" if current <= total else f"{current} {detail.units}")
    if current > total:
        return bar + f"{human_size(current):>8}"
    return bar + f"{human_size(current):>8}/{human_size(total)}"


_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")


def human_size(size: float) -> str:
    """Write bytes with four significant digits and decimal units: `1.234kB`."""
    step = 0
    while size >= 1000.0 and step < len(_UNITS) - 1:
        size /= 1000.0
        step += 1
    return f"{size:.4g}{_UNITS[step]}"
