"""The steps that change files: RUN, COPY, ADD and WORKDIR; each a layer, from the cache or made."""

import asyncio
import contextlib
import posixpath
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import msgspec

from scow.build import entitlements
from scow.build import instructions as kinds
from scow.build.cache import Record, Sources, step_key
from scow.build.compose import Composer, Owner, parse_chmod
from scow.build.context import Context
from scow.build.copy_sources import CopySources
from scow.build.emulation import why_not
from scow.build.flights import Say
from scow.build.image_state import ImageState
from scow.build.layering import compose_layer
from scow.build.mounts import Mount
from scow.build.run_mounts import Origins, RunMounts
from scow.build.runner import CommandFailed, RunRequest
from scow.build.selection import Keep, NothingFound, everything
from scow.build.tools import Build
from scow.errors import InvalidArgument, NotSupported, ScowError
from scow.oci.digest import DiffID
from scow.runtime.user import UnknownGroup, UnknownUser, resolve_user
from scow.store.snapshots import finish

_MAX_ID: Final = 2**31 - 1


class Place(NamedTuple):
    """Where a step stands: whom it reports to, and what it reports."""

    tell: Callable[..., None]  # kind, text, stream, data, progress
    cached: bool  # whether the cache may be asked
    state: ImageState  # what the step stands on


class Steps:
    """Executes the steps of one build."""

    def __init__(self, build: Build, context: Context, origins: Origins, ignored: Keep = everything) -> None:
        self._build = build
        self._store = build.tools.store
        self._cache = build.tools.cache
        self._origins = origins
        self.run_mounts = RunMounts(build, context, origins, ignored)
        self.copy_sources = CopySources(build, context, origins, ignored)

    async def perform(
        self,
        place: Place,
        key: str,
        description: str,
        work: Callable[[Say], Awaitable[DiffID | None]],
        created_by: str = "",
    ) -> Record:
        """Take a step's outcome from the cache, or from whoever is at it, or do the work.

        `created_by` is what the image's history will say, if that is enough to know the step by.
        """
        record = await self.find(place, key, description, created_by)
        if record is None:
            self._origins.begin()

            async def make(say: Say) -> Record:
                return self._add(key, description, await work(say), time.time_ns())

            flight = key if place.cached else f"{key}-{self._build.anew.id}"
            record = await self._build.tools.flights.join(
                flight, make, lambda said: place.tell(*said), self._build.pace
            )
            self._build.records[key] = record
            if not place.cached:
                self._build.anew.records[key] = record
        return record

    async def find(self, place: Place, key: str, description: str, created_by: str = "") -> Record | None:
        """Take a step's outcome from the cache; None if that doesn't know it, or isn't to be asked."""
        anew = self._build.anew.records.get(key)
        record = await self._found(place, key, description, created_by) if place.cached else anew
        if record is not None:
            place.tell("cached")
            self._build.records[key] = record
        return record

    async def _found(self, place: Place, key: str, description: str, created_by: str) -> Record | None:
        """A step's record in our cache, or in one from elsewhere; then it is in ours, too."""
        record = self._cache.find(key)
        if record is not None:
            if record.diff_id is None or self._store.layers.find(record.diff_id) is not None:
                return record
            self._cache.forget(key)
        found = await self._build.imports.find(
            key,
            place.state,
            created_by,
            lambda text: place.tell("note", text),
            lambda message: place.tell("progress", progress=message),
        )
        return None if found is None else self._add(key, description, found.diff_id, found.created_at)

    def _add(self, key: str, description: str, diff_id: DiffID | None, created_at: int) -> Record:
        layer = None if diff_id is None else self._store.layers.find(diff_id)
        record = Record(
            key=key,
            diff_id=diff_id,
            description=description,
            size=layer.files_size if layer else 0,
            created_at=created_at,
            used_at=time.time_ns(),
        )
        self._cache.add(record)
        return record

    # --- RUN

    async def run(
        self, place: Place, state: ImageState, one: kinds.Run, args: tuple[str, ...], env: Sequence[str],
        mounts: Sequence[Mount], shown: str, script: str, silent: Sequence[str], created_by: str,
    ) -> Record:  # fmt: skip
        """Run a command. `script` is mounted for it; `silent` variables are in no key.

        Raises CommandFailed and NotEntitled.
        """
        entitlements.check(one, self._build.options.allowed)
        epoch = self._build.options.epoch
        described = [msgspec.structs.astuple(mount) for mount in mounts]
        origins = [await self.run_mounts.origin(mount) for mount in mounts]
        key = step_key(
            "RUN", state.chain, str(state.platform), args, env, state.config.user, state.config.working_dir,
            one.network, one.security, described, origins, script, epoch,
        )  # fmt: skip

        async def work(say: Say) -> DiffID | None:
            id = secrets.token_hex(32)
            async with AsyncExitStack() as stack:
                ready, given = await self.run_mounts.prepare(stack, id, mounts, state)
                if script:
                    ready.append(await self.run_mounts.script(stack, script, id))
                request = RunRequest(
                    base=state.diff_ids,
                    args=args,
                    env=(*env, *silent, *given),
                    user=state.config.user,
                    working_dir=state.config.working_dir or "/",
                    network=one.network,  # type: ignore[arg-type]  # the parser knows the three
                    insecure=one.security == "insecure",
                    mounts=tuple(ready),
                    epoch=epoch,
                )

                async def output(stream: int, data: bytes) -> None:
                    say(("output", "", stream, data))
                    await say.pace()

                say(("container", id))
                try:
                    code, layer = await self._build.runner.run(id, request, output)
                except ScowError as error:
                    if why := await why_not(state.platform):
                        raise NotSupported(f"{error}: {why}") from error
                    raise
            if code:
                raise CommandFailed(shown, code, await why_not(state.platform))
            say(("removed", id))
            return None if layer is None else layer.diff_id

        plain = not (mounts or script or one.security != "sandbox" or one.network != "default")
        return await self.perform(place, key, f"RUN {shown}", work, created_by if plain else "")

    # --- COPY, ADD

    async def copy(
        self, place: Place, state: ImageState, one: kinds.Copy, shown: Callable[[str], str]
    ) -> tuple[Record, str]:
        """Copy files; the instruction's variables are replaced already.

        Gives what the history says of it, too, which `shown` makes of the digest of what was copied.
        """
        epoch = self._build.options.epoch
        chmod = parse_chmod(one.chmod) if one.chmod else None
        working_dir = state.config.working_dir or "/"
        destination = posixpath.join(working_dir, one.destination)
        if one.destination in (".", "..") or one.destination.endswith(("/.", "/..")):
            destination += "/"
        owner = await self._owner(state, one)

        def key_of(sources: Sources) -> str:
            return step_key(
                "COPY", "" if one.link else state.chain, sources.digests, destination,
                msgspec.json.encode(owner).decode(), one.chmod, one.parents, sources.several,
                isinstance(one, kinds.Add), epoch,
            )  # fmt: skip

        plain = not (one.chmod or one.parents)  # else the history says too little
        remembered = alias = ""
        if one.source_stage:
            recipe = await self._origins.recipe_of(one.source_stage)
            if recipe is not None:
                alias = step_key("RECIPE", recipe, one.sources, one.exclude, one.parents, owner is None)
                taken = await self._taken(place, alias)
                if taken is not None:
                    created_by = shown(taken.shown)
                    record = await self.find(place, key_of(taken), one.text, created_by if plain else "")
                    if record is not None:
                        return record, created_by
            # Of files that can't change it is enough to have looked once.
            layers = await self._origins.layers_of(one.source_stage)
            remembered = step_key("SOURCES", layers, one.sources, one.exclude, one.parents, owner is None)
            known = self._cache.find(remembered) if place.cached else None
            if known is not None and known.sources is not None:
                self._note_alias(alias, known.sources)
                created_by = shown(known.sources.shown)
                record = await self.find(place, key_of(known.sources), one.text, created_by if plain else "")
                if record is not None:
                    return record, created_by
        stack = AsyncExitStack()
        handed_over = False
        try:
            try:
                origins = await self.copy_sources.open(stack, one)
            except NothingFound as error:
                why = error.elsewhere if one.source_stage else str(error)
                raise InvalidArgument(f"{one.NAME} failed: {why}") from error
            sources = await self.copy_sources.digests(origins, one, owner)
            if sources.several and not destination.endswith("/"):
                raise InvalidArgument(
                    f"When using {one.NAME} with more than one source file, "
                    "the destination must be a directory and end with a /"
                )
            self._note_alias(alias, sources)
            if remembered:
                now = time.time_ns()
                what = f"sources of {one.text}"
                self._cache.add(Record(key=remembered, description=what, sources=sources, created_at=now, used_at=now))

            def fill(composer: Composer) -> None:
                for each in origins:
                    whose = owner or (None if each.owners else Owner(0, 0))
                    composer.copy(
                        each.tree, each.selections, destination,
                        owner=whose, chmod=chmod, keep=each.keep, several=sources.several, replace=each.archive,
                    )  # fmt: skip

            async def work(say: Say) -> DiffID | None:
                # The sources are this work's now: another build may wait for it when this one is cancelled.
                nonlocal handed_over
                handed_over = True
                async with stack:
                    layer = await compose_layer(
                        self._store, state.diff_ids, fill, look=not one.link, epoch=epoch, now=int(time.time())
                    )
                return None if layer is None else layer.diff_id

            created_by = shown(sources.shown)
            record = await self.perform(place, key_of(sources), one.text, work, created_by if plain else "")
        finally:
            if not handed_over:
                await stack.aclose()
        return record, created_by

    async def _taken(self, place: Place, alias: str) -> Sources | None:
        """What a copy from a stage with a recipe took, if a cache knows."""
        if not place.cached:
            return None
        known = self._cache.find(alias)
        if known is not None and known.sources is not None:
            self._note_alias(alias, known.sources)
            return known.sources
        step = await self._build.imports.find_sources(alias, lambda text: place.tell("note", text))
        if step is not None:
            self._note_alias(alias, step)
        return step

    def _note_alias(self, alias: str, sources: Sources) -> None:
        if alias and alias not in self._build.aliases:
            record = Record(key=alias, description="copy from a stage", sources=sources, used_at=time.time_ns())
            self._build.aliases[alias] = record
            self._cache.add(record)

    async def _owner(self, state: ImageState, one: kinds.Copy) -> Owner | None:
        if not one.chown:
            return None
        user, _, group = one.chown.partition(":")
        failed = "unable to convert uid/gid chown string to host mapping"
        if re.fullmatch(r"[0-9]*:?[0-9]*", one.chown):
            owner = Owner(int(user or "0"), int(group or user or "0"))
            if max(owner.uid, owner.gid) > _MAX_ID:
                raise InvalidArgument(f"{failed}: {one.chown}: uids and gids must be in range 0-{_MAX_ID}")
            return owner
        async with self._store.snapshots.view(state.diff_ids) as root:
            try:
                found = await finish(asyncio.to_thread(resolve_user, root, user or "0"))
                if not group:
                    return Owner(found.uid, found.gid)
                return Owner(found.uid, (await finish(asyncio.to_thread(resolve_user, root, f"0:{group}"))).gid)
            except UnknownUser as error:
                raise InvalidArgument(f"{failed}: can't find uid for user {user}: no such user: {user}") from error
            except UnknownGroup as error:
                raise InvalidArgument(f"{failed}: can't find gid for group {group}: no such group: {group}") from error
            except InvalidArgument as error:
                raise InvalidArgument(f"{failed}: {one.chown}: {error}") from error

    # --- WORKDIR

    async def workdir(self, place: Place, state: ImageState, path: str, shown: str, created_by: str) -> Record:
        """Have a directory; one that is made belongs to the user that the steps run as, as BuildKit's do."""
        epoch = self._build.options.epoch
        user = state.config.user
        key = step_key("WORKDIR", state.chain, path, shown, epoch, *([user] if user else []))

        async def work(say: Say) -> DiffID | None:
            _pretend(say)
            owner = None
            if user:
                # An unknown one is told of by the first step that runs as it.
                with contextlib.suppress(UnknownUser, UnknownGroup):
                    async with self._store.snapshots.view(state.diff_ids) as root:
                        found = await finish(asyncio.to_thread(resolve_user, root, user))
                    owner = Owner(found.uid, found.gid)
            layer = await compose_layer(
                self._store,
                state.diff_ids,
                lambda composer: composer.directory(path, owner),
                epoch=epoch,
                now=int(time.time()),
            )
            return None if layer is None else layer.diff_id

        return await self.perform(place, key, shown, work, created_by)

    # --- those that change the config only

    async def note(self, place: Place, state: ImageState, shown: str, after: Any, created_by: str) -> Record:
        """Remember a step that changes no file: its time is part of the image."""
        key = step_key("CONFIG", state.chain, msgspec.json.encode(state.config).decode(), shown, after)

        async def work(say: Say) -> DiffID | None:
            _pretend(say)
            return None

        return await self.perform(place, key, shown, work, created_by)


def _pretend(say: Say) -> None:
    """Name a container, as docker's classic builder makes one for every step: its readers count these lines."""
    id = secrets.token_hex(32)
    say(("container", id))
    say(("removed", id))
