"""Which stages a target needs, and what each takes from where."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from scow.build.arguments import global_scope
from scow.build.dockerfile import parse
from scow.build.errors import DockerfileError
from scow.build.plan import Plan, Source, names_like, plan
from scow.oci.platform import Platform

AMD = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm64")


def planned(
    text: str,
    target: str = "",
    *,
    contexts: Collection[str] = (),
    triggers: Mapping[int, Sequence[str]] | None = None,
) -> Plan:
    file = parse(text)
    scope = global_scope(file, {}, AMD, ARM, target)
    return plan(file, scope, target=target, platform=ARM, contexts=contexts, triggers=triggers)


def order(found: Plan) -> list[int]:
    return [stage.index for stage in found.stages]


FILE = """
FROM alpine AS base
FROM base AS tools
RUN a
FROM scratch AS unneeded
FROM base AS build
COPY --from=tools /a /b
RUN --mount=from=data,target=/d b
FROM scratch AS data
FROM scratch
COPY --from=build / /
COPY --from=3 / /
COPY --from=nginx:1 / /
"""


def test_only_needed_stages_are_planned_and_come_after_what_they_need() -> None:
    found = planned(FILE)
    assert order(found) == [0, 4, 1, 3, 5]
    assert found.target == 5
    assert found[3].needs == {0, 1, 4}
    assert found[3].inputs == {
        "tools": Source(kind="stage", name="tools", stage=1),
        "data": Source(kind="stage", name="data", stage=4),
    }
    assert found[5].base == Source(kind="scratch")
    assert found[5].inputs["nginx:1"] == Source(kind="image", name="nginx:1", platform=ARM)
    assert found[0].base == Source(kind="image", name="alpine", platform=ARM)
    assert [found[index].title for index in (0, 5)] == ["base", "stage-5"]
    with pytest.raises(KeyError):
        found[2]


@pytest.mark.parametrize(("target", "index"), [("tools", 1), ("TOOLS", 1), ("1", 1), ("", 5), ("5", 5)])
def test_a_target_is_a_name_or_a_number(target: str, index: int) -> None:
    assert planned(FILE, target).target == index


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FROM a AS b\nCOPY --from=b x y", "line 2: circular dependency detected on stage: b"),
        ("FROM a\nCOPY --from=0 x y", "circular dependency detected on stage: 0"),
        (
            "FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from=a x y",
            "line 1: circular dependency detected on stage: a",
        ),
        ("FROM a AS b\nFROM scratch\nCOPY --from=7 x y", "line 3: invalid stage index 7"),
        ("FROM a\nCOPY --from=-1 x y", "invalid stage index -1"),
        ("FROM $x", r"base name \(\$x\) should not be blank"),
        ("FROM --platform=$x a", r"empty platform value from expression \$x"),
        ("FROM --platform=banana/x a", "failed to parse platform banana/x"),
        ("FROM Build AS x", 'failed to parse stage name "Build": invalid reference format'),
        (
            "FROM a AS builder\nFROM scratch\nCOPY --from=Bulider x y",
            r'failed to parse stage name "Bulider": .*\(did you mean builder\?\)',
        ),
    ],
)
def test_what_cannot_be_planned_is_told(text: str, why: str) -> None:
    with pytest.raises(DockerfileError, match=why) as refused:
        planned(text)
    assert ">>>" in refused.value.report


def test_a_missing_target_comes_with_a_suggestion() -> None:
    with pytest.raises(DockerfileError) as refused:
        planned(FILE, "biuld")
    assert str(refused.value) == 'target stage "biuld" could not be found (did you mean build?)'
    assert names_like("alpyne", parse(FILE)) == "alpine"


def test_a_name_means_the_last_stage_before_that_has_it() -> None:
    found = planned("FROM a AS x\nFROM x AS x\nFROM x")
    assert [stage.base.stage for stage in found.stages] == [None, 0, 1]


def test_a_stage_is_for_the_platform_of_its_bottom() -> None:
    found = planned(
        "FROM --platform=$BUILDPLATFORM a AS x\nFROM x AS y\nFROM --platform=linux/386 y\nCOPY --from=b / /"
    )
    assert {stage.platform for stage in found.stages} == {AMD}
    assert found[2].inputs["b"].platform == AMD


def test_named_contexts_stand_in_for_stages_and_images() -> None:
    text = "FROM alpine AS base\nRUN x\nFROM base\nCOPY --from=Data / /\nCOPY --from=scratch / /"
    found = planned(text, contexts=["data", "base"])
    assert order(found) == [1]
    assert found[1].base == Source(kind="context", name="base")
    assert found[1].inputs == {"Data": Source(kind="context", name="data"), "scratch": Source(kind="scratch")}
    replaced = planned(text, "base", contexts=["base"])
    assert replaced[0].base == Source(kind="context", name="base")
    assert replaced[0].instructions == ()


def test_triggers_come_before_a_stages_own_instructions() -> None:
    text = "FROM app AS main\nRUN own\nFROM scratch AS extra\nFROM main\nONBUILD RUN later\nFROM scratch AS last"
    found = planned(text, "main", triggers={0: ["COPY --from=extra / /", "RUN first"]})
    assert order(found) == [1, 0]
    assert found[0].triggers == 2
    assert [one.text for one in found[0].instructions] == ["COPY --from=extra / /", "RUN first", "RUN own"]
    assert found[0].instructions[0].lines == found[0].lines


def test_triggers_of_a_stage_run_in_the_stage_above_it_only() -> None:
    found = planned("FROM a AS x\nONBUILD RUN t\nFROM x AS y\nRUN own\nFROM y")
    assert [[one.text for one in stage.instructions] for stage in found.stages] == [
        ["ONBUILD RUN t"],
        ["RUN t", "RUN own"],
        [],
    ]


def test_a_bad_trigger_of_a_base_is_told_at_its_from() -> None:
    with pytest.raises(DockerfileError, match="line 2: ONBUILD trigger of the base: unknown instruction: RNU"):
        planned("\nFROM app", triggers={0: ["RNU x"]})


def test_long_chains_of_stages_are_planned() -> None:
    text = "FROM scratch AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(3000))
    assert order(planned(text)) == list(range(3001))
