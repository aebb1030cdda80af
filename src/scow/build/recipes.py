"""Names of stages by what they are made of, without making them.

A step's key knows the file system that it stands on, so that a stage has to be there before what copies from it can be
looked up. A recipe is known before: the base image, the instructions and what they use of the context. With it another
engine's cache may say what a copy from a stage took, and the stage needn't be built.
"""

import asyncio
from contextlib import AsyncExitStack

import msgspec

from scow.build import instructions as kinds
from scow.build.arguments import Globals, Scope
from scow.build.cache import step_key
from scow.build.commands import command_of
from scow.build.config_changes import apply, shell_of
from scow.build.copy_sources import CopySources
from scow.build.dockerfile import Dockerfile
from scow.build.image_state import with_path
from scow.build.plan import SCRATCH, Plan, PlannedStage, Source
from scow.build.run_mounts import RunMounts
from scow.build.sources import is_remote
from scow.build.tools import Build
from scow.errors import ScowError
from scow.oci.image_config import ExecConfig


class _Unknown(Exception):
    """What a stage uses can't be told before: a URL, triggers of its base, a named context."""


class _Known(msgspec.Struct, frozen=True):
    """A stage's recipe so far, with the config and scope that the next instruction sees."""

    recipe: str
    config: ExecConfig
    scope: Scope


class Recipes:
    """The recipes of one build's stages."""

    def __init__(
        self, build: Build, file: Dockerfile, globals: Globals, plan: Plan, sources: CopySources, mounts: RunMounts
    ) -> None:
        self._build = build
        self._file = file
        self._globals = globals
        self._plan = plan
        self._sources = sources
        self._mounts = mounts
        self._found: dict[int, asyncio.Task[_Known]] = {}

    async def find(self, index: int) -> str | None:
        """The recipe of a stage; None if it can't be told."""
        try:
            return (await self._of(index)).recipe
        except (_Unknown, ScowError):
            return None

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _of(self, index: int) -> _Known:
        task = self._found.get(index)
        if task is None:
            task = self._found[index] = asyncio.ensure_future(self._read(self._plan[index]))
        return await asyncio.shield(task)

    async def _read(self, stage: PlannedStage) -> _Known:
        known = await self._base(stage)
        if known.config.on_build:
            raise _Unknown
        cmd_set = False
        for one in stage.instructions:
            if isinstance(one, kinds.Arg):
                known = msgspec.structs.replace(known, scope=known.scope.declared(one))
            elif isinstance(one, kinds.Run):
                known = await self._run(stage, known, one)
            elif isinstance(one, kinds.Copy):
                known = await self._copy(stage, known, known.scope.expanded(one))
            elif not isinstance(one, kinds.Maintainer):
                config = apply(one, known.config, known.scope.variables, escape=self._globals.escape, cmd_set=cmd_set)
                cmd_set = cmd_set or isinstance(one, kinds.Cmd)
                scope = known.scope.with_env(config.env) if isinstance(one, kinds.Env) else known.scope
                recipe = step_key(known.recipe, one.NAME, msgspec.json.encode(config).decode())
                known = _Known(recipe, config, scope)
        return known

    async def _base(self, stage: PlannedStage) -> _Known:
        base = stage.base
        if base.stage is not None:
            return await self._of(base.stage)
        scope = Scope(globals=self._globals)
        if base.kind == SCRATCH:
            config = with_path(ExecConfig())
            return _Known(SCRATCH, config, scope.with_env(config.env))
        if base.kind != "image":
            raise _Unknown
        written = self._file.stages[stage.index].base.platform
        platform = base.platform if written else self._build.options.platform
        image, described = await self._build.bases.find(base.name, platform, lambda message: None)
        config = with_path(described.exec)
        return _Known(step_key(image.id, str(stage.platform)), config, scope.with_env(config.env))

    async def _source(self, source: Source) -> str:
        if source.stage is not None:
            return (await self._of(source.stage)).recipe
        if source.kind == SCRATCH:
            return SCRATCH
        if source.kind != "image":
            raise _Unknown
        image, _ = await self._build.bases.find(source.name, self._build.options.platform, lambda message: None)
        return image.id

    async def _run(self, stage: PlannedStage, known: _Known, one: kinds.Run) -> _Known:
        args, script = command_of(one, shell_of(known.config))
        mounts = known.scope.mounts_of(one)
        origins = [
            await self._source(stage.inputs[mount.source_stage])
            if mount.source_stage
            else await self._mounts.origin(mount)
            for mount in mounts
        ]
        recipe = step_key(
            known.recipe, "RUN", args, script, {**known.scope.env, **known.scope.effective_arguments},
            known.config.user, known.config.working_dir, one.network, one.security,
            [msgspec.structs.astuple(mount) for mount in mounts], origins, self._build.options.epoch,
        )  # fmt: skip
        return msgspec.structs.replace(known, recipe=recipe)

    async def _copy(self, stage: PlannedStage, known: _Known, one: kinds.Copy) -> _Known:
        digests: tuple[str, ...] = ()
        source = ""
        if one.source_stage:
            source = await self._source(stage.inputs[one.source_stage])
        elif any(is_remote(each) for each in one.sources):
            raise _Unknown
        else:
            async with AsyncExitStack() as stack:
                digests = (await self._sources.digests(await self._sources.open(stack, one), one, None)).digests
        recipe = step_key(
            known.recipe, one.NAME, source, digests, one.sources, one.destination, one.chown, one.chmod, one.parents,
            one.exclude, one.link, known.config.working_dir, self._build.options.epoch,
        )  # fmt: skip
        return msgspec.structs.replace(known, recipe=recipe)
