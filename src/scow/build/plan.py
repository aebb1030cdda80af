"""What has to be built for a target: the stages it needs as a graph, with what each takes from where.

A stage needs its base, and whatever `COPY --from` and `RUN --mount=from=` name: another stage (also one further down),
a named context, or an image. Stages that the target needs in no way are not in the plan. The plan is pure: a base
image's ONBUILD triggers are only known once its config is, so the caller plans again with `triggers` then.
"""

import graphlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from scow.build import instructions as kinds
from scow.build.arguments import Globals
from scow.build.dockerfile import Dockerfile, Stage, parse_triggers
from scow.build.errors import DockerfileError, Lines, quoted
from scow.build.instructions import Instruction
from scow.build.suggest import nearest
from scow.oci.platform import InvalidPlatform, Platform, parse_platform
from scow.oci.reference import InvalidReference, parse_reference

SCRATCH: Final = "scratch"
_COMMON: Final = ("alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora", "nginx", "node", "python")
"""Images that people often mean."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stage's base, or the files of a COPY or mount, come from."""

    kind: Literal["stage", "image", "context", "scratch"]
    name: str = ""
    """The image's reference as written, or the named context's name (lower case); a stage's name or number as text."""
    stage: int | None = None
    platform: Platform | None = None
    """Of an image: which of its platforms."""


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that has to be built."""

    index: int
    """Its place in the file, from 0."""
    name: str
    base: Source
    platform: Platform
    """What it is built for: the base's, for a stage on a stage."""
    instructions: tuple[Instruction, ...]
    """ONBUILD triggers of the base, then the stage's own."""
    triggers: int = 0
    """How many of the instructions come from the base."""
    inputs: Mapping[str, Source] = {}
    """What each `--from` and `from=` of its instructions, as written, means. The build context is never in it."""
    needs: frozenset[int] = frozenset()
    """The stages to be built first, the base among them."""
    lines: Lines
    """Of its FROM."""

    @property
    def title(self) -> str:
        """How output calls it: `build`, or `stage-0`."""
        return self.name or f"stage-{self.index}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be built, in an order in which each stage comes after those it needs."""

    stages: tuple[PlannedStage, ...]
    target: int
    """The index of the stage that is wanted."""

    def __getitem__(self, index: int) -> PlannedStage:
        """The stage at a place in the file. Raises KeyError if it isn't needed."""
        for stage in self.stages:
            if stage.index == index:
                return stage
        raise KeyError(index)


def plan(
    dockerfile: Dockerfile,
    scope: Globals,
    *,
    target: str = "",
    platform: Platform,
    contexts: Collection[str] = (),
    triggers: Mapping[int, Sequence[str]] | None = None,
) -> Plan:
    """Plan the build of a stage by name or number; the last one if `target` is empty.

    `platform` is what is built for unless a FROM says otherwise; `contexts` are the names of named contexts in the form
    of `context_name`, which stand in for stages and images of their name; `triggers` are the ONBUILD expressions of
    stages' base images, by the stages' indexes. Raises DockerfileError with the file's lines.
    """
    try:
        return _Planner(dockerfile, scope, platform, contexts, triggers or {}).plan(target)
    except DockerfileError as error:
        raise error.located(dockerfile.name, dockerfile.source) from error.__cause__


def names_like(name: str, dockerfile: Dockerfile, contexts: Iterable[str] = ()) -> str | None:
    """A stage, named context or well-known image that `name`, which could not be found, may have been meant to be."""
    known = [stage.name for stage in dockerfile.stages if stage.name]
    return nearest(name, [*known, *contexts, *_COMMON])


def context_name(name: str) -> str:
    """The form in which names of contexts are compared: `alpine` for `Alpine:latest` and `library/alpine`, too."""
    try:
        return parse_reference(name.lower()).familiar.removesuffix(":latest")
    except InvalidReference:
        return name.lower()


def find_stage(dockerfile: Dockerfile, name: str, before: int) -> int | None:
    """The last stage of that name, or the one with that number, among those before a place in the file."""
    for stage in reversed(dockerfile.stages[:before]):
        if stage.name and stage.name == name.lower():
            return stage.index
    if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < before:
        return int(name)
    return None


def find_target(dockerfile: Dockerfile, target: str) -> int:
    """The stage that is wanted, the last one if `target` is empty. Raises DockerfileError."""
    stages = dockerfile.stages
    if not target:
        return len(stages) - 1
    found = find_stage(dockerfile, target, len(stages))
    if found is None:
        suggestion = nearest(target, [stage.name for stage in stages if stage.name])
        raise DockerfileError(f"target stage {quoted(target)} could not be found", suggestion=suggestion)
    return found


class _Planner:
    def __init__(
        self,
        dockerfile: Dockerfile,
        scope: Globals,
        platform: Platform,
        contexts: Collection[str],
        triggers: Mapping[int, Sequence[str]],
    ) -> None:
        self._file = dockerfile
        self._scope = scope
        self._platform = platform
        self._contexts = frozenset(contexts)
        self._triggers = triggers
        self._platforms: dict[int, Platform] = {}

    def plan(self, target: str) -> Plan:
        wanted = find_target(self._file, target)
        found: dict[int, PlannedStage] = {}
        waiting = [wanted]
        while waiting:
            index = waiting.pop()
            if index not in found:
                found[index] = self._planned_stage(self._file.stages[index])
                waiting += found[index].needs
        return Plan(stages=tuple(self._in_order(found)), target=wanted)

    def _in_order(self, found: Mapping[int, PlannedStage]) -> Iterator[PlannedStage]:
        sorter = graphlib.TopologicalSorter({index: stage.needs for index, stage in found.items()})
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            stage = found[min(error.args[1])]
            raise DockerfileError(
                f"circular dependency detected on stage: {stage.name or stage.index}", lines=stage.lines, parsing=False
            ) from error
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            sorter.done(*ready)
            yield from (found[index] for index in ready)

    def _find(self, name: str, before: int) -> int | None:
        return find_stage(self._file, name, before)

    def _planned_stage(self, stage: Stage) -> PlannedStage:
        base = self._base(stage)
        platform = self._platform_of(stage)
        if base.kind == "context" and base.name == stage.name:  # it stands in for all of the stage
            return PlannedStage(
                index=stage.index,
                name=stage.name,
                base=base,
                platform=platform,
                instructions=(),
                lines=stage.base.lines,
            )
        inherited: list[str] = list(self._triggers.get(stage.index, ()))
        needs: set[int] = set()
        if base.stage is not None:
            needs.add(base.stage)
            own = self._file.stages[base.stage].instructions
            inherited += [one.expression for one in own if isinstance(one, kinds.OnBuild)]
        elif base.kind == "image":
            base = msgspec.structs.replace(base, platform=platform)
        first = self._parsed(stage, inherited)
        instructions = (*first, *stage.instructions)
        inputs = {name: self._input(name, stage, one, platform) for one, name in _references(instructions)}
        needs.update(source.stage for source in inputs.values() if source.stage is not None)
        return PlannedStage(
            index=stage.index,
            name=stage.name,
            base=base,
            platform=platform,
            instructions=instructions,
            triggers=len(first),
            inputs=inputs,
            needs=frozenset(needs),
            lines=stage.base.lines,
        )

    def _parsed(self, stage: Stage, expressions: Sequence[str]) -> tuple[Instruction, ...]:
        """Triggers, with the lines of the FROM that sets them off."""
        try:
            found = parse_triggers(expressions)
        except DockerfileError as error:
            raise DockerfileError(
                f"ONBUILD trigger of the base: {error.why}",
                lines=stage.base.lines,
                suggestion=error.suggestion,
                parsing=False,
            ) from error
        return tuple(msgspec.structs.replace(one, lines=stage.base.lines) for one in found)

    def _base(self, stage: Stage) -> Source:
        written = stage.base
        if stage.name in self._contexts and stage.name:
            return Source(kind="context", name=stage.name)  # it stands in for the stage: see `_planned_stage`
        image = self._scope.expand(written.image, written)
        if not image:
            raise DockerfileError(
                f"base name ({written.image}) should not be blank", lines=written.lines, token=written.image
            )
        if image == SCRATCH:
            return Source(kind="scratch")
        if (named := context_name(image)) in self._contexts:
            return Source(kind="context", name=named)
        found = self._find(image, stage.index)
        if found is not None:
            return Source(kind="stage", name=image, stage=found)
        return self._image(image, written)

    def _platform_of(self, stage: Stage) -> Platform:
        """The platform a stage is built for: what the FROM at the bottom of its bases says, or the build's."""
        chain = [stage]
        while chain[-1].index not in self._platforms:
            below = self._base(chain[-1]).stage
            if below is None:
                self._platforms[chain[-1].index] = self._written_platform(chain[-1])
            else:
                chain.append(self._file.stages[below])
        platform = self._platforms[chain[-1].index]
        self._platforms.update({each.index: platform for each in chain})
        return platform

    def _written_platform(self, stage: Stage) -> Platform:
        written = stage.base
        if not written.platform:
            return self._platform
        text = self._scope.expand(written.platform, written)
        if not text:
            raise DockerfileError(
                f"empty platform value from expression {written.platform}", lines=written.lines, token=written.platform
            )
        try:
            return parse_platform(text)
        except InvalidPlatform as error:
            raise DockerfileError(
                f"failed to parse platform {text}: {error}", lines=written.lines, token=written.platform
            ) from error

    def _input(self, name: str, stage: Stage, instruction: Instruction, platform: Platform) -> Source:
        if name == SCRATCH:
            return Source(kind="scratch")
        if (named := context_name(name)) in self._contexts:
            return Source(kind="context", name=named)
        found = self._find(name, len(self._file.stages))
        if found == stage.index:
            raise DockerfileError(
                f"circular dependency detected on stage: {stage.name or stage.index}",
                lines=instruction.lines,
                token=name,
                parsing=False,
            )
        if found is not None:
            return Source(kind="stage", name=name, stage=found)
        if name.isascii() and name.lstrip("-").isdigit():
            raise DockerfileError(f"invalid stage index {name}", lines=instruction.lines, token=name, parsing=False)
        return msgspec.structs.replace(self._image(name, instruction), platform=platform)

    def _image(self, name: str, instruction: Instruction) -> Source:
        try:
            parse_reference(name)
        except InvalidReference as error:
            raise DockerfileError(
                f"failed to parse stage name {quoted(name)}: {error}",
                lines=instruction.lines,
                token=name,
                suggestion=names_like(name, self._file, self._contexts),
                parsing=False,
            ) from error
        return Source(kind="image", name=name)


def _references(instructions: Sequence[Instruction]) -> Iterator[tuple[Instruction, str]]:
    """What instructions take files from, the build context left out."""
    for one in instructions:
        if isinstance(one, kinds.Copy) and one.source_stage:
            yield one, one.source_stage
        elif isinstance(one, kinds.Run):
            for mount in one.mounts:
                if mount.source_stage:
                    yield one, mount.source_stage
