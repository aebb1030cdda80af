"""Builds as BuildKit's statuses."""

from base64 import b64decode
from typing import Any

from scow.build.dockerfile import parse
from scow.build.report import Kind, StageEnded, StepEvent
from scow.build.trace import Trace
from scow.wire.progress import ProgressMessage, progress_step

FILE = parse(b"ARG X\nFROM a AS one\nRUN x\nFROM one\nCOPY a b\n", "Dockerfile")


def event(kind: Kind, stage: int, step: int, text: str = "", **more: Any) -> StepEvent:
    return StepEvent(kind=kind, stage=stage, step=step, total=5, text=text, **more)


def told(*events: StepEvent | StageEnded, why: str = "", shown: tuple[str, ...] = ("",)) -> list[dict[str, Any]]:
    messages: list[ProgressMessage] = []
    trace = Trace(messages.append, FILE, shown)
    for each in events:
        trace(each)
    if why:
        trace.fail(why)
    assert {message.id for message in messages} == {"scow.build.status"}
    return [message.aux for message in messages[2:]]  # without the definition's


def vertexes(statuses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [vertex for status in statuses for vertex in status.get("vertexes", ())]


def test_steps_are_numbered_within_their_stage_and_follow_each_other() -> None:
    found = vertexes(
        told(
            *(event("start", 0, 1, "ARG X"), event("start", 0, 2, "FROM a AS one"), event("done", 0, 2)),
            *(event("start", 0, 3, "RUN x"), event("cached", 0, 3), event("done", 0, 3)),
            *(event("start", 1, 4, "FROM one"), event("done", 1, 4)),
        )
    )
    names = ["[one 1/2] FROM a AS one", "[one 2/2] RUN x", "[stage-1 1/2] FROM one"]
    assert [each["name"] for each in found] == [name for name in names for _ in range(2)]
    assert ["completed" in each for each in found] == [False, True] * 3
    assert found[2]["inputs"] == [found[0]["digest"]]
    assert [each.get("cached", False) for each in found] == [False, False, False, True, False, False]


def test_several_platforms_are_named() -> None:
    shown = ("linux/amd64", "linux/arm64")
    found = vertexes(told(event("start", 2, 2, "[linux/arm64] FROM a AS one"), shown=shown))
    assert found[0]["name"] == "[linux/arm64 one 1/2] FROM a AS one"


def test_output_and_layers_belong_to_their_step() -> None:
    found = told(
        event("start", 0, 2, "FROM a AS one"),
        event("progress", 0, 2, progress=progress_step("0123", "Downloading", 1, 9)),
        event("progress", 0, 2, progress=progress_step("0123", "Pull complete")),
        event("output", 0, 2, stream=2, data=b"err"),
    )
    digest = found[0]["vertexes"][0]["digest"]
    first, last, log = found[1]["statuses"][0], found[2]["statuses"][0], found[3]["logs"][0]
    assert {first["vertex"], last["vertex"], log["vertex"]} == {digest}
    assert (first["current"], first["total"], "completed" in first) == (1, 9, False)
    assert (last["started"], "completed" in last) == (first["started"], True)
    assert (log["stream"], b64decode(log["data"])) == (2, b"err")


def test_the_first_step_that_breaks_is_why_and_the_others_were_cancelled() -> None:
    begun = (event("start", 0, 2, "FROM a AS one"), event("start", 1, 4, "FROM one"))
    found = vertexes(told(*begun, StageEnded(1), StageEnded(0), why="because"))
    assert [each["error"] for each in found[2:]] == ["because", "Canceled: context canceled"]
