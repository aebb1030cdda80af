"""Lines of builds in docker's order and words."""

from scow.build.classic import STAGE_KEPT, ClassicLines
from scow.build.report import Kind, StageEnded, StepEvent
from scow.wire.progress import ProgressMessage


def event(kind: Kind, stage: int, text: str = "", data: bytes = b"", stream: int = 1) -> StepEvent:
    return StepEvent(kind=kind, stage=stage, step=stage + 1, total=3, text=text, data=data, stream=stream)


def lines(*events: StepEvent | StageEnded, flush: bool = False, **options: bool) -> list[str]:
    told: list[ProgressMessage] = []
    classic = ClassicLines(told.append, [0, 1, 2], **options)
    for each in events:
        classic(each)
    if flush:
        classic.fail("why")
    return [message.stream for message in told]


def test_docker_words() -> None:
    assert lines(
        event("start", 0, "FROM x"),
        event("container", 0, "a" * 64),
        event("output", 0, data=b"out"),
        event("output", 0, data=b"err", stream=2),
        event("removed", 0, "a" * 64),
        event("cached", 0),
        event("done", 0, f"sha256:{'b' * 64}"),
    ) == [
        "Step 1/3 : FROM x",
        "\n",
        " ---> Running in aaaaaaaaaaaa\n",
        "out",
        "\x1b[91merr\x1b[0m",
        "Removing intermediate container aaaaaaaaaaaa\n",
        " ---> Using cache\n",
        " ---> bbbbbbbbbbbb\n",
    ]


def test_stages_are_told_one_after_the_other() -> None:
    assert lines(
        event("note", 1, "second"),
        event("note", 0, "first"),
        StageEnded(1),
        event("note", 2, "third"),
        event("note", 0, "still first"),
        StageEnded(0),
        event("note", 2, "end"),
    ) == ["first\n", "still first\n", "second\n", "third\n", "end\n"]


def test_what_was_kept_of_a_stage_that_failed_is_told_at_the_end() -> None:
    assert lines(event("note", 0, "waits"), event("note", 1, "why"), flush=True) == ["waits\n", "why\n"]


def test_of_a_stage_that_is_told_later_some_output_is_kept() -> None:
    chunk = event("output", 1, data=b"x" * (STAGE_KEPT // 4))
    told = lines(*[chunk] * 6, StageEnded(0))
    assert len(told) == 5
    assert told[-1].startswith("[output clipped")


def test_each_stage_but_the_last_ends_with_its_image() -> None:
    told: list[ProgressMessage] = []
    classic = ClassicLines(told.append, [0, 1])
    for event in (StageEnded(1, "sha256:b"), StageEnded(0, "sha256:a")):
        classic(event)
    assert [message.aux for message in told] == [{"ID": "sha256:a"}]


def test_a_quiet_build_is_told_when_it_fails() -> None:
    assert lines(event("note", 0, "x"), event("note", 1, "y"), quiet=True, flush=True) == ["x\n", "y\n"]


def test_of_a_quiet_build_that_says_too_much_the_last_is_told() -> None:
    chunk = b"x" * 100_000
    told = lines(*(event("output", 0, data=b"%d%s" % (number, chunk)) for number in range(30)), quiet=True, flush=True)
    assert [text[:2] for text in told] == [str(number) for number in range(20, 30)]


def test_containers_of_failed_commands_are_removed_when_that_is_forced() -> None:
    failed = (event("container", 0, "a" * 64), StageEnded(0))
    assert lines(*failed, force_remove=True)[1:] == ["Removing intermediate container aaaaaaaaaaaa\n"]
    assert lines(*failed)[1:] == []


def test_quiet_is_quiet_and_kept_containers_are_not_said_to_be_removed() -> None:
    assert lines(event("note", 0, "x"), quiet=True) == []
    assert lines(event("removed", 0, "x"), remove=False) == []
