"""A build's progress on a terminal: what is done stays, what is at work is drawn anew."""

import io
import re

from scow.cli.build_view import BuildView


class Terminal:
    """What stands on a terminal that knows moving up, erasing below and colours."""

    def __init__(self) -> None:
        self.out = io.StringIO()

    def lines(self) -> list[str]:
        shown: list[str] = []
        for piece in re.split(r"(\x1b\[\d+A\x1b\[J|\n)", re.sub(r"\x1b\[\d*m", "", self.out.getvalue())):
            if up := re.fullmatch(r"\x1b\[(\d+)A\x1b\[J", piece):
                del shown[len(shown) - int(up[1]) :]
            elif piece and piece != "\n":
                shown.append(piece)
        return shown


def drawn(*streams: str, columns: int = 40) -> tuple[BuildView, Terminal]:
    terminal = Terminal()
    ticks = iter(range(1000))
    view = BuildView(terminal.out, columns, clock=lambda: float(next(ticks)) / 10)
    for text in streams:
        view.show({"stream": text})
    return view, terminal


def test_steps_that_are_done_are_one_line_each() -> None:
    view, terminal = drawn(
        "Step 1/12 : FROM busybox\n",
        " ---> 0123456789ab\n",
        "Step 2/12 : RUN   make \\\n",
        " ---> Using cache\n",
        " ---> 0123456789ab\n",
        "Step 3/12 : CMD x\n",
        "[Warning] something\n",
        "Successfully built 0123456789ab\n",
    )
    view.close()
    lines = terminal.lines()
    assert re.fullmatch(r"✓ \[ 1/12\] FROM busybox \d\.\ds", lines[0])
    assert lines[1] == "✓ [ 2/12] RUN make \\ cached"
    assert lines[2].startswith("✓ [ 3/12] CMD x")
    assert lines[3:] == ["[Warning] something", "Successfully built 0123456789ab"]


def test_the_step_at_work_shows_its_last_lines() -> None:
    view, terminal = drawn("Step 1/1 : RUN x\n", " ---> Running in 0123456789ab\n")
    for number in range(20):
        view.show({"stream": f"\x1b[91mline {number}\x1b[0m\n"})
    view.show({"stream": "not yet ended"})
    lines = terminal.lines()
    assert lines[0].startswith("• [1/1] RUN x")
    assert lines[1:] == [f"  line {number}" for number in range(15, 20)] + ["  not yet ended"]
    view.show({"stream": ", now\nStep 2/2 : CMD y\n"})
    assert [line[:9] for line in terminal.lines()] == ["✓ [1/1] R", "• [2/2] C"]


def test_a_failed_step_leaves_its_output() -> None:
    view, terminal = drawn("Step 1/1 : RUN x\n", *(f"line {number}\n" for number in range(20)))
    view.close(failed=True)
    lines = terminal.lines()
    assert lines[0].startswith("✗ [1/1] RUN x")
    assert lines[1:] == [f"  line {number}" for number in range(20)]


def test_lines_fit_the_terminal_and_do_not_move_it() -> None:
    _, terminal = drawn("Step 1/1 : RUN " + "x" * 99 + "\n", "a\tb\x07\x1b[2J" + "y" * 99 + "\n", "50%\r60%\r\n")
    assert all(len(line) <= 40 for line in terminal.lines())
    assert "… " in terminal.lines()[0]
    assert terminal.lines()[-1] == "  60%"


def test_layers_being_pulled_are_lines_that_change() -> None:
    view, terminal = drawn("Step 1/1 : FROM x\n")
    view.show({"id": "0123", "status": "Downloading", "progressDetail": {"current": 1, "total": 1000}})
    view.show({"id": "0123", "status": "Pull complete"})
    assert terminal.lines()[1:] == ["  0123: Pull complete"]
