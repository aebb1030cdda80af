"""A build: stages as tasks that wait for each other where one stands on another or copies from it.

Each stage is a chain of states (image_state.py), one instruction after the other. The last state of the target becomes
an image.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from scow.build import instructions as kinds
from scow.build.arguments import OF_CONTEXT, SOURCE_DATE_EPOCH, Globals, Scope, global_scope, source_date_default
from scow.build.cache import Record
from scow.build.cache_document import encode_inline
from scow.build.cache_export import Mode
from scow.build.commands import command_of
from scow.build.config_changes import apply, environment, shell_of
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile, Stage, parse_triggers
from scow.build.errors import DockerfileError, Lines, StepFailed
from scow.build.image_state import ImageState, parse_created, state_of, with_path
from scow.build.lint import KnownBase
from scow.build.named_contexts import NamedContexts
from scow.build.plan import SCRATCH, Plan, names_like, plan
from scow.build.recipes import Recipes
from scow.build.report import Report, StageEnded, StepEvent
from scow.build.runner import CommandFailed
from scow.build.selection import Keep, everything
from scow.build.squash import squash
from scow.build.steps import Place, Steps
from scow.build.tools import Build, Options
from scow.errors import InvalidArgument, NotFound, ScowError
from scow.oci.digest import DiffID
from scow.oci.image_config import MAX_CONFIG_SIZE, ExecConfig
from scow.oci.platform import host_platform
from scow.wire.progress import ProgressMessage


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a build made."""

    state: ImageState
    base: ImageState  # what the target's FROM began with
    steps: int
    cached: int


class _StageState(msgspec.Struct, frozen=True):
    """What a stage ended with: its image, and the scope that a stage on it begins with."""

    image: ImageState
    scope: Scope


class Execution:
    """Executes one Dockerfile for one platform. `run` once."""

    def __init__(
        self,
        build: Build,
        dockerfile: Dockerfile,
        context: Context,
        report: Report,
        ignored: Keep = everything,
        named: NamedContexts | None = None,
    ) -> None:
        self._build = build
        self._named = named
        self._file = dockerfile
        self._report = report
        options = build.options
        if options.build_args.get(SOURCE_DATE_EPOCH) == OF_CONTEXT:
            options = options.dated(context.dated)
        self._platform = options.platform or host_platform()
        self._globals = self._scope(options)
        self._triggers: dict[int, Sequence[str]] = {}
        self._plan = self._planned()
        self._target = self._plan.target
        default = source_date_default(dockerfile, self._globals, self._target)
        if default == OF_CONTEXT and SOURCE_DATE_EPOCH not in options.build_args:
            options = options.dated(context.dated)
            self._globals = self._scope(options)
        build.options = msgspec.structs.replace(options, default_epoch=default)
        _ = build.options.epoch  # a bad one is refused before anything is done
        self.bases: dict[int, KnownBase] = {}
        """What the base images of the stages with these indexes turned out to be."""
        self._steps = Steps(build, context, self, ignored)
        self._recipes = Recipes(
            build, dockerfile, self._globals, self._plan, self._steps.copy_sources, self._steps.run_mounts
        )
        self._tasks: dict[int, asyncio.Task[_StageState]] = {}
        self._group = asyncio.TaskGroup()
        self.needed = sorted(stage.index for stage in self._plan.stages)
        self._numbers: dict[tuple[int, int], int] = {}
        self._total = 0
        self._cached = 0
        self._base: ImageState | None = None
        self._count()

    # --- the plan

    def _scope(self, options: Options) -> Globals:
        return global_scope(self._file, options.build_args, host_platform(), self._platform, options.target)

    def _planned(self) -> Plan:
        return plan(
            self._file,
            self._globals,
            target=self._build.options.target,
            platform=self._platform,
            contexts=self._named.names if self._named else (),
            triggers=self._triggers,
        )

    def _count(self) -> None:
        self._total = len(self._file.global_args)
        for index in self.needed:
            self._number(index)
        self._total += len(self._build.options.labels)

    def _number(self, index: int) -> None:
        for position in range(len(self._file.stages[index].instructions) + 1):
            self._total += 1
            self._numbers[index, position] = self._total

    @property
    def _is_lazy(self) -> bool:
        """Whether stages wait until a step has to be done: a cache may have all that is copied from them."""
        return self._build.imports.wanted and not self._build.options.tells_all

    def begin(self) -> None:
        """Have all stages built that are needed: a step has to be done."""
        for stage in self._plan.stages:
            self._task(stage.index)

    def _task(self, index: int) -> asyncio.Task[_StageState]:
        if index not in self._tasks:
            if (index, 0) not in self._numbers:
                self._number(index)
            self._tasks[index] = self._group.create_task(self._run_stage(self._file.stages[index]))
        return self._tasks[index]

    def _plan_triggers(self, index: int, triggers: Sequence[str]) -> None:
        """Plan again with what a base image leaves to be done: that may need stages that nothing else does.

        Raises DockerfileError for a trigger that needs the stage it runs in.
        """
        self._triggers[index] = triggers
        self._plan = self._planned()
        if not self._is_lazy:
            self.begin()

    # --- running

    async def run(self) -> Result:
        """Build the target. Raises CommandFailed, DockerfileError and others."""
        first = self.needed[0]
        for number, one in enumerate(self._file.global_args, 1):
            self._tell(first, number, "start", one.text)
        try:
            async with self._group:
                if self._is_lazy:
                    self._task(self._target)  # it may be all that is needed: others begin when a step has to be done
                else:
                    self.begin()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await self._recipes.aclose()
        for index in self.needed:
            if index not in self._tasks:
                self._report(StageEnded(index))
        state = self._tasks[self._target].result().image
        assert self._base is not None
        await self._build.tools.cache.flush()
        if self._build.options.squash:
            options = self._build.options
            state = await squash(self._build.tools.store, state, self._base, now_ns=time.time_ns(), epoch=options.epoch)
        elif self._build.options.inline_cache and state.based_on is None:
            state = msgspec.structs.replace(state, build_cache=encode_inline(self._records_of(state), state.diff_ids))
        return Result(state=state, base=self._base, steps=self._total, cached=self._cached)

    def _records_of(self, state: ImageState) -> list[Record]:
        """The steps of an image, at the times that its history gives."""
        added = state.history[len(state.history) - len(state.keys) :]
        own = [
            msgspec.structs.replace(self._build.records[key], created_at=parse_created(step.created))
            for key, step in zip(state.keys, added, strict=True)
        ]
        return [*own, *self._build.aliases.values()]

    def records(self, mode: Mode) -> list[Record]:
        """The steps to be told to others: those of the image that was made, or of all stages.

        A step keeps the time that it has in the image.
        """
        if mode == "max":
            return [*self._build.records.values(), *self._build.aliases.values()]
        return self._records_of(self._tasks[self._target].result().image)

    async def layers_of(self, name: str) -> tuple[DiffID, ...]:
        """As Origins.layers_of."""
        source = next(stage.inputs[name] for stage in self._plan.stages if name in stage.inputs)
        if source.stage is not None:
            return (await asyncio.shield(self._task(source.stage))).image.diff_ids
        if source.kind == SCRATCH:
            return ()
        if source.kind == "context":
            return (await self._context(source.name, lambda message: None)).diff_ids
        try:
            image, _ = await self._build.bases.find(source.name, self._build.options.platform, lambda message: None)
        except ScowError as error:
            suggestion = names_like(source.name, self._file, self._named.names if self._named else ())
            raise StepFailed(str(error), token=source.name, suggestion=suggestion) from error
        return image.diff_ids

    async def recipe_of(self, name: str) -> str | None:
        """As Origins.recipe_of."""
        if not (self._build.imports.wanted or self._build.options.tells_cache):
            return None
        source = next(stage.inputs[name] for stage in self._plan.stages if name in stage.inputs)
        return None if source.stage is None else await self._recipes.find(source.stage)

    async def _context(self, name: str, emit: Callable[[ProgressMessage], None]) -> ImageState:
        assert self._named is not None
        return await self._named.find(name, self._build.options.platform, self._platform, emit)

    async def _run_stage(self, stage: Stage) -> _StageState:
        base = self._plan[stage.index].base
        ended = StageEnded(stage.index)
        try:
            state, scope = await self._begin(stage)
            if stage.index == self._target:
                self._base = state
            runner = _StageRun(self, stage, state, scope)
            triggers = state.config.on_build or ()
            if triggers:
                await runner.trigger(triggers)
            replaced = base.kind == "context" and base.name == stage.name
            for position, one in enumerate(() if replaced else stage.instructions, 1):
                await runner.execute(one, self._numbers[stage.index, position])
            labels = self._build.options.labels if stage.index == self._target else {}
            for number, label in enumerate(sorted(labels), self._total - len(labels) + 1):
                await runner.label(label, labels[label], number)
            ended = StageEnded(stage.index, runner.state.id)
            return _StageState(runner.state, runner.scope)
        except DockerfileError as error:
            raise error.located(self._file.name, self._file.source) from error.__cause__
        finally:
            self._report(ended)

    async def _begin(self, stage: Stage) -> tuple[ImageState, Scope]:
        number = self._numbers[stage.index, 0]
        base = self._plan[stage.index].base
        if base.stage is not None:
            ended = await asyncio.shield(self._task(base.stage))
        self._tell(stage.index, number, "start", stage.base.text)
        if base.stage is not None:
            if not ended.image.config.on_build:
                self._tell(stage.index, number, "done", ended.image.id)
            return ended.image, ended.scope
        platform = base.platform if stage.base.platform else self._build.options.platform
        scope = Scope(globals=self._globals)
        if base.kind == SCRATCH:
            self._tell(stage.index, number, "done", "")
            state = ImageState(platform=self._plan[stage.index].platform, config=with_path(ExecConfig()))
            return state, scope.with_env(state.config.env)

        def emit(message: ProgressMessage) -> None:
            self._tell(stage.index, number, "progress", progress=message)

        try:
            if base.kind == "context":
                state = await self._context(base.name, emit)
            else:
                image, config = await self._build.bases.find(base.name, platform, emit)
                state = state_of(config, image.id)
        except ScowError as error:
            suggestion = names_like(base.name, self._file, self._named.names if self._named else ())
            raise StepFailed(
                str(error), lines=stage.base.lines, token=stage.base.image, suggestion=suggestion
            ) from error
        if state.config.on_build:
            self._plan_triggers(stage.index, state.config.on_build)
        if not state.config.on_build:
            self._tell(stage.index, number, "done", state.id)
        scope = scope.with_env(state.config.env)
        self.bases[stage.index] = KnownBase(scope.env, None if base.kind == "context" else state.platform)
        return state, scope

    def _tell(
        self,
        stage: int,
        step: int,
        kind: Any,
        text: str = "",
        stream: int = 1,
        data: bytes = b"",
        progress: ProgressMessage | None = None,
    ) -> None:
        if kind == "cached":
            self._cached += 1
        self._report(
            StepEvent(
                kind=kind,
                stage=stage,
                step=step,
                total=self._total,
                text=text,
                stream=stream,
                data=data,
                progress=progress,
            )
        )


class _StageRun:
    """A stage on its way: the state and scope after each instruction."""

    def __init__(self, execution: Execution, stage: Stage, state: ImageState, scope: Scope) -> None:
        self._execution = execution
        self._steps = execution._steps
        self._options = execution._build.options
        self._stage = stage
        self.state = state
        self.scope = scope
        self._cmd_set = False
        self._told = 0  # characters of the history so far
        filtered = self._options.no_cache_filter
        self._cached = not self._options.no_cache and not (
            filtered and (stage.name in filtered or str(stage.index) in filtered)
        )

    async def trigger(self, triggers: Sequence[str]) -> None:
        """Execute what the base image left for those who build on it."""
        number = self._execution._numbers[self._stage.index, 0]
        plural = "s" if len(triggers) > 1 else ""
        self._tell(number, "note", f"# Executing {len(triggers)} build trigger{plural}")
        self.state = msgspec.structs.replace(
            self.state, config=msgspec.structs.replace(self.state.config, on_build=None)
        )
        for one in parse_triggers(triggers):
            await self._execute(one, number, self._stage.base.lines)
        self._tell(number, "done", self.state.id)

    async def execute(self, one: kinds.Instruction, number: int) -> None:
        """Execute one instruction of the file."""
        self._tell(number, "start", one.text)
        await self._execute(one, number, one.lines)
        self._tell(number, "done", self.state.id)

    async def _execute(self, one: kinds.Instruction, number: int, lines: Lines) -> None:
        try:
            await self._perform(one, number)
        except DockerfileError as error:
            error.lines = error.lines or lines
            raise
        except CommandFailed:
            raise  # its words are all that clients want
        except ScowError as error:
            raise StepFailed(str(error), lines=lines) from error

    async def label(self, name: str, value: str, number: int) -> None:
        """Add a label that the caller of the build asks for, as docker does: by an instruction of its own."""
        text = f"LABEL {name}={value}"
        self._tell(number, "start", text)
        config = msgspec.structs.replace(self.state.config, labels={**(self.state.config.labels or {}), name: value})
        await self._note(number, text, config)
        self._tell(number, "done", self.state.id)

    def _tell(self, number: int, kind: str, text: str = "") -> None:
        self._execution._tell(self._stage.index, number, kind, text)

    def _place(self, number: int) -> Place:
        return Place(
            lambda kind, text="", stream=1, data=b"", progress=None: self._execution._tell(
                self._stage.index, number, kind, text, stream, data, progress
            ),
            self._cached,
            self.state,
        )

    async def _perform(self, one: kinds.Instruction, number: int) -> None:
        if isinstance(one, kinds.Arg):
            shown = self.scope.shown(one)
            self.scope = self.scope.declared(one)
            await self._note(number, shown, self.state.config, self.scope.effective_arguments)
        elif isinstance(one, kinds.Run):
            await self._run(one, number)
        elif isinstance(one, kinds.Copy):
            resolved = self.scope.expanded(one)
            before = f"{self._nop} {one.NAME} {f'--chown={resolved.chown} ' if resolved.chown else ''}"
            record, created_by = await self._steps.copy(
                self._place(number), self.state, resolved, lambda digest: f"{before}{digest} in {resolved.destination} "
            )
            self._then(created_by, record)
        elif isinstance(one, kinds.Workdir):
            config = apply(one, self.state.config, self.scope.variables, escape=self.scope.globals.escape)
            created_by = f"{self._nop} WORKDIR {config.working_dir}"
            record = await self._steps.workdir(
                self._place(number), self.state, config.working_dir, one.text, created_by
            )
            self._then(created_by, record, config)
        elif isinstance(one, kinds.Maintainer):
            self.state = msgspec.structs.replace(self.state, author=one.maintainer)
            await self._note(number, f"MAINTAINER {one.maintainer}", self.state.config)
        else:
            config = apply(
                one, self.state.config, self.scope.variables, escape=self.scope.globals.escape, cmd_set=self._cmd_set
            )
            self._cmd_set = self._cmd_set or isinstance(one, kinds.Cmd)
            await self._note(number, described(one, config, self.state.config, self.scope.expand), config)
            if isinstance(one, kinds.Env):
                self.scope = self.scope.with_env(config.env)

    async def _run(self, one: kinds.Run, number: int) -> None:
        shell = shell_of(self.state.config)
        args, script = command_of(one, shell)
        shown = " ".join(args)
        known = {**self.scope.env, **self.scope.effective_arguments}
        created_by = " ".join([*self.scope.history_arguments, shown])
        record = await self._steps.run(
            self._place(number),
            self.state,
            one,
            args,
            [f"{name}={value}" for name, value in known.items()],
            self.scope.mounts_of(one),
            shown,
            script,
            [f"{name}={value}" for name, value in self.scope.proxies.items()],
            created_by,
        )
        self._then(created_by, record)

    async def _note(self, number: int, shown: str, config: Any, more: Any = None) -> None:
        nop = " ".join([*shell_of(config), "#(nop)"])  # the shell after it: docker notes SHELL so
        created_by = f"{nop}  {shown}"
        encoded = msgspec.json.encode(config)
        if len(encoded) > MAX_CONFIG_SIZE:
            raise InvalidArgument(f"the image's config would become larger than {MAX_CONFIG_SIZE} bytes")
        record = await self._steps.note(self._place(number), self.state, shown, [encoded.decode(), more], created_by)
        self._then(created_by, record, config)

    @property
    def _nop(self) -> str:
        """What docker's history puts in front of instructions that run nothing."""
        return " ".join([*shell_of(self.state.config), "#(nop)"])

    def _then(self, created_by: str, record: Record, config: Any = None) -> None:
        epoch = self._options.epoch
        at = record.created_at if epoch is None else epoch * 1_000_000_000
        self._told += len(created_by)
        if self._told > MAX_CONFIG_SIZE:
            raise InvalidArgument(f"the image's history would become larger than {MAX_CONFIG_SIZE} bytes")
        self.state = self.state.then(created_by, at, config=config, diff_id=record.diff_id, key=record.key)


def described(one: kinds.Instruction, config: Any, before: Any, expand: Callable[[str], str]) -> str:
    """An instruction as docker's history shows it, its variables replaced."""

    def array(args: Sequence[str] | None) -> str:
        return "[" + " ".join(msgspec.json.encode(arg).decode() for arg in args or ()) + "]"

    match one:
        case kinds.Cmd():
            return f"CMD {array(config.cmd)}"
        case kinds.Entrypoint():
            return f"ENTRYPOINT {array(config.entrypoint)}"
        case kinds.Env():
            old, new = environment(before), environment(config)
            changed = [f"{name}={value}" for name, value in new.items() if old.get(name) != value]
            return "ENV " + " ".join(changed or [f"{pair.key}={pair.value}" for pair in one.pairs])
        case kinds.Label():
            labels = before.labels or {}
            changed = [f"{name}={value}" for name, value in (config.labels or {}).items() if labels.get(name) != value]
            return "LABEL " + " ".join(changed or [f"{pair.key}={pair.value}" for pair in one.pairs])
        case kinds.User():
            return f"USER {config.user}"
        case kinds.StopSignal():
            return f"STOPSIGNAL {config.stop_signal}"
        case kinds.Shell():
            return f"SHELL [{' '.join(config.shell or ())}]"
        case kinds.Expose():
            return "EXPOSE " + " ".join(sorted(map(expand, one.ports)))
        case kinds.Volume():
            return f"VOLUME [{' '.join(map(expand, one.paths))}]"
        case _:
            return one.text


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of tasks failed with: not those that came of it."""
    for error in errors.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(found, asyncio.CancelledError):
            return found
    return NotFound("the build was cancelled")
