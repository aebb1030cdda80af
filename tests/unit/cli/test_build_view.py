"""A build's progress on a terminal: what is done stays, what is at work is drawn anew."""

import io
import re
from base64 import b64encode
from typing import Any

import pytest

from scow.cli.build_status import Statuses
from scow.cli.build_view import BuildView, cut, width


class Terminal:
    """What stands on a terminal that knows moving up, erasing below and colours."""

    def __init__(self) -> None:
        self.out = io.StringIO()

    def lines(self) -> list[str]:
        shown: list[str] = []
        for piece in re.split(r"(\r\x1b\[\d+A\x1b\[J|\n)", re.sub(r"\x1b\[\d*m", "", self.out.getvalue())):
            if up := re.fullmatch(r"\r\x1b\[(\d+)A\x1b\[J", piece):
                del shown[len(shown) - int(up[1]) :]
            elif piece and piece != "\n":
                shown.append(piece)
        return shown


def view(columns: int = 40, rows: int = 24) -> tuple[BuildView, Terminal]:
    terminal = Terminal()
    ticks = iter(range(10_000))
    return BuildView(terminal.out, lambda: (columns, rows), clock=lambda: float(next(ticks)) / 10), terminal


def begun(name: str) -> dict[str, Any]:
    return {"vertexes": [{"digest": name, "name": name, "started": "now"}]}


def ended(name: str, **more: Any) -> dict[str, Any]:
    return {"vertexes": [{"digest": name, "name": name, "started": "now", "completed": "now", **more}]}


def said(name: str, text: str) -> dict[str, Any]:
    return {"logs": [{"vertex": name, "stream": 1, "data": b64encode(text.encode()).decode()}]}


def test_steps_that_are_done_are_one_line_each() -> None:
    drawn, terminal = view()
    for status in (begun("[1/2] FROM x"), ended("[1/2] FROM x"), ended("[2/2] RUN   make \\\n  all", cached=True)):
        drawn.show(status)
    drawn.say("[Warning] something")
    drawn.close()
    lines = terminal.lines()
    assert re.fullmatch(r"✓ \[1/2\] FROM x \d\.\ds", lines[0])
    assert lines[1:] == ["✓ [2/2] RUN make \\ all cached", "[Warning] something"]


def test_steps_at_work_stand_below_with_their_last_lines() -> None:
    drawn, terminal = view()
    for status in (begun("a"), begun("b"), *(said("a", f"\x1b[91mline {number}\x1b[0m\n") for number in range(20))):
        drawn.show(status)
    drawn.show(said("b", "not yet ended"))
    drawn.show(ended("c"))
    lines = terminal.lines()
    assert lines[0].startswith("✓ c")
    assert [re.sub(r" \d\.\ds", "", line) for line in lines[1:]] == [
        *("• a", "  line 17", "  line 18", "  line 19", "• b", "  not yet ended"),
    ]
    drawn.show(ended("a"))
    assert [line[:3] for line in terminal.lines()] == ["✓ c", "✓ a", "• b", "  n"]


def test_a_failed_step_leaves_its_output() -> None:
    drawn, terminal = view()
    drawn.show(begun("a"))
    drawn.show(begun("b"))
    for number in range(20):
        drawn.show(said("a", f"line {number}\n"))
    drawn.show(ended("a", error="why"))
    drawn.close(failed=True)
    lines = terminal.lines()
    assert lines[0].startswith("✗ a")
    assert lines[1:21] == [f"  line {number}" for number in range(20)]
    assert lines[21].startswith("✗ b")


def test_lines_fit_the_terminal_and_do_not_move_it() -> None:
    drawn, terminal = view()
    drawn.show(begun("RUN " + "x" * 99))
    drawn.show(
        said("RUN " + "x" * 99, "a\tb\x07\x1b[2J\x1b]0;title\x07" + "y" * 99 + "\n" + "日本" * 40 + "\n50%\r60%\r\n")
    )
    assert all(width(line) <= 40 for line in terminal.lines())
    assert "… " in terminal.lines()[0]
    assert terminal.lines()[-1] == "  60%"


def test_colours_can_be_left_out() -> None:
    out = io.StringIO()
    drawn = BuildView(out, lambda: (40, 24), clock=lambda: 0.0, colours=False)
    for status in (begun("a"), said("a", "out\n"), ended("a", error="why")):
        drawn.show(status)
    assert re.findall(r"\x1b\[\d*m", out.getvalue()) == []
    assert "✗ a" in out.getvalue()


def test_more_steps_than_rows_are_not_drawn() -> None:
    drawn, terminal = view(rows=5)
    for number in range(9):
        drawn.show(begun(str(number)))
        drawn.show(said(str(number), "out\n"))
    assert [line[:3] for line in terminal.lines()] == ["• 6", "• 7", "• 8"]


def test_layers_being_pulled_are_lines_that_change() -> None:
    drawn, terminal = view()
    drawn.show(begun("FROM x"))
    for name, current in (("Downloading", 1), ("Pull complete", 0)):
        drawn.show(
            {"statuses": [{"id": "0123", "vertex": "FROM x", "name": name, "current": current, "total": current}]}
        )
    assert terminal.lines()[1:] == ["  0123: Pull complete"]


@pytest.mark.parametrize(
    ("text", "columns", "left"), [("abc", 2, "ab"), ("日本", 3, "日"), ("e\u0301é", 1, "e\u0301"), ("abc", -1, "")]
)
def test_texts_are_cut_by_columns(text: str, columns: int, left: str) -> None:
    assert cut(text, columns) == left


def statuses(*messages: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    reader = Statuses()
    return [status for message in messages for status in reader.take(message)], reader.said


def test_classic_lines_are_read_as_statuses() -> None:
    found, said = statuses(
        {"stream": "Step 1/12 : FROM x"},
        {"stream": "\n"},
        {"status": "Downloading", "id": "0123", "progressDetail": {"current": 1, "total": 9}},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": "Step 2/12 : RUN x\n ---> Running in 0123456789ab\n"},
        {"stream": "out"},
        {"stream": "put\n"},
        {"stream": "Step 3/12 : CMD x\n ---> Using cache\n"},
        {"stream": "[Warning] beware\nSuccessfully built 0123456789ab\n"},
    )
    vertexes = [vertex for status in found for vertex in status.get("vertexes", ())]
    assert [(each["name"], "completed" in each, each.get("cached", False)) for each in vertexes] == [
        *(("[ 1/12] FROM x", False, False), ("[ 1/12] FROM x", True, False)),
        *(("[ 2/12] RUN x", False, False), ("[ 2/12] RUN x", True, False)),
        *(("[ 3/12] CMD x", False, False), ("[ 3/12] CMD x", True, True)),
    ]
    assert [log["data"] for status in found for log in status.get("logs", ())] == [b64encode(b"output\n").decode()]
    assert [each["current"] for status in found for each in status.get("statuses", ())] == [1]
    assert said == ["[Warning] beware", "Successfully built 0123456789ab"]


def test_statuses_that_the_engine_tells_are_passed_on() -> None:
    status = begun("x")
    found, said = statuses(
        {"id": "scow.build.status", "aux": status}, {"stream": "Step 1/1 : no\nSuccessfully built x\n"}
    )
    assert (found, said) == ([status], ["Successfully built x"])


def test_an_error_ends_the_step_of_classic_lines() -> None:
    found, _ = statuses({"stream": "Step 1/1 : RUN x\n"}, {"error": "why", "errorDetail": {"message": "why"}})
    assert found[-1]["vertexes"][0]["error"] == "why"
