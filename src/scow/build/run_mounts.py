"""What `RUN --mount` asks for, made ready before a step's command runs and gone after it."""

import asyncio
import os
import posixpath
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from scow.build.agents import forwarded
from scow.build.cache import step_key
from scow.build.compose import Owner
from scow.build.context import Context
from scow.build.image_state import ImageState
from scow.build.layering import compose_layer
from scow.build.mounts import Mount
from scow.build.runner import RunMount
from scow.build.selection import Keep, Selected, digest
from scow.build.tools import Build
from scow.build.trees import DirectoryTree, find
from scow.errors import InvalidArgument, NotFound, Unavailable
from scow.oci.digest import DiffID
from scow.store.snapshots import finish

SCRIPT: Final = "/dev/pipes/EOF"
"""Where a here-document that names its interpreter is mounted while it runs."""
NAMESPACE: Final = "BUILDKIT_CACHE_MOUNT_NS"
"""The build argument that keeps cache mounts of the same name apart."""


class Origins(Protocol):
    """Gives what COPY --from and mounts name: stages and images."""

    async def layers_of(self, name: str) -> tuple[DiffID, ...]:
        """The layers of a stage, when it is built, or of an image."""

    async def recipe_of(self, name: str) -> str | None:
        """What names a stage before it is built, if that is wanted, and can be told."""

    def begin(self) -> None:
        """Take notice that a step has to be done."""


class RunMounts:
    """The mounts of one build's steps."""

    def __init__(self, build: Build, context: Context, origins: Origins, ignored: Keep) -> None:
        self._build = build
        self._store = build.tools.store
        self._context = context
        self._origins = origins
        self._ignored = ignored

    async def origin(self, mount: Mount) -> tuple[DiffID, ...] | str:
        """What a step's outcome depends on by a mount, besides the mount's options."""
        if mount.source_stage:
            return await self._origins.layers_of(mount.source_stage)
        if mount.type != "bind":
            return ""
        tree = self._context.tree
        whole = [Selected(b"", tree.root, b"")]
        return await finish(asyncio.to_thread(digest, tree, whole, self._ignored, owners=False))

    async def prepare(
        self, stack: AsyncExitStack, id: str, mounts: Sequence[Mount], state: ImageState
    ) -> tuple[list[RunMount], list[str]]:
        """Make a step's mounts ready; `stack` undoes that. Gives them and the variables that come with them, too.

        Raises NotFound, InvalidArgument.
        """
        if any(mount.type == "bind" and not mount.source_stage for mount in mounts):
            await stack.enter_async_context(self._context.used())
        working_dir = state.config.working_dir or "/"
        caches = await self._caches(stack, mounts)
        ready: list[RunMount] = []
        variables: list[str] = []
        agents = 0
        for mount in mounts:
            target = posixpath.normpath(posixpath.join(working_dir, mount.target))
            if mount.type == "tmpfs":
                ready.append(RunMount(target=target, rw=True, size=mount.size))
            elif mount.type == "cache":
                ready.append(RunMount(target=target, source=caches[self._cache_name(mount)], rw=not mount.readonly))
            elif mount.type == "bind":
                ready.append(await self._bind(stack, mount, target))
            elif mount.type == "secret":
                ready += await self._secret(stack, mount, id, variables)
            elif (socket := await self._agent(stack, mount, f"{id}-{agents}")) is not None:
                place = _absolute(mount.target or f"run/buildkit/ssh_agent.{agents}")
                ready.append(RunMount(target=place, source=socket, rw=True))
                if not agents and not any(each.startswith("SSH_AUTH_SOCK=") for each in state.config.env or ()):
                    variables.append(f"SSH_AUTH_SOCK={place}")
                agents += 1
        return ready, variables

    # --- caches

    def _cache_name(self, mount: Mount) -> str:
        namespace = self._build.options.build_args.get(NAMESPACE, "")
        name = f"{namespace}/{mount.id}" if namespace else mount.id
        return f"{name}\0{mount.source_stage}\0{mount.source}" if mount.source_stage else name

    async def _caches(self, stack: AsyncExitStack, mounts: Sequence[Mount]) -> dict[str, Path]:
        """The directories of the caches, each once, got in an order that is the same for all: none waits in a ring."""
        wanted = {self._cache_name(mount): mount for mount in mounts if mount.type == "cache"}
        found: dict[str, Path] = {}
        for name, mount in sorted(wanted.items()):
            full = name
            layers: tuple[DiffID, ...] | None = None
            if mount.source_stage:
                layers = await self._origins.layers_of(mount.source_stage)
                full = f"{name}\0{step_key(layers)}"

            async def fill(top: Path, mount: Mount = mount, layers: tuple[DiffID, ...] | None = layers) -> None:
                if layers is not None:
                    async with self._store.snapshots.view(layers) as root:
                        await finish(asyncio.to_thread(_copy, await self._inside(root, mount.source), top))

            top = await stack.enter_async_context(self._build.tools.mounts.mounted(full, mount.sharing, fill))
            await finish(asyncio.to_thread(_prepare_cache, top, mount))
            found[name] = top
        return found

    # --- files

    async def _bind(self, stack: AsyncExitStack, mount: Mount, target: str) -> RunMount:
        layers = await self._origins.layers_of(mount.source_stage) if mount.source_stage else await self._as_layer()
        if mount.readonly:
            top = await stack.enter_async_context(self._store.snapshots.view(layers, shifted=True))
        else:
            top = await stack.enter_async_context(self._scratch(layers))
        return RunMount(target=target, source=await self._inside(top, mount.source), rw=not mount.readonly)

    async def _inside(self, top: Path, source: str) -> Path:
        """A path below a directory, symlinks followed in it."""
        found = await finish(asyncio.to_thread(find, DirectoryTree(top), os.fsencode(source.strip("/"))))
        if found is None:
            raise NotFound(f'failed to mount: "{source}" not found')
        return Path(os.fsdecode(os.fsencode(top) + b"/" + found[0])) if found[0] else top

    async def _as_layer(self) -> tuple[DiffID, ...]:
        """The context as a layer, to be mounted."""
        tree = self._context.tree
        whole = [Selected(b"", tree.root, b"")]
        layer = await compose_layer(
            self._store, (), lambda composer: composer.copy(tree, whole, "/", owner=Owner(0, 0), keep=self._ignored)
        )
        return () if layer is None else (layer.diff_id,)

    @asynccontextmanager
    async def _scratch(self, layers: tuple[DiffID, ...]) -> AsyncIterator[Path]:
        """Layers as a directory in which can be written, and all of that is forgotten."""
        name = f"build-{secrets.token_hex(16)}"
        try:
            await self._store.snapshots.prepare(name, layers)
            yield await self._store.snapshots.mount(name)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._store.snapshots.remove(name)))

    async def script(self, stack: AsyncExitStack, text: str, id: str) -> RunMount:
        """A here-document that is to be run as a program."""
        folder = self._build.tools.run_folder / f"script-{id}"
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
        await finish(
            asyncio.to_thread(_write_secret, folder / "script", text.encode(), Mount(type="secret", mode=0o555))
        )
        return RunMount(target=SCRIPT, source=folder / "script")

    # --- secrets and agents

    async def _secret(self, stack: AsyncExitStack, mount: Mount, id: str, variables: list[str]) -> list[RunMount]:
        value = self._build.options.secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise NotFound(f'secret "{mount.id}" not found: pass it with --secret id={mount.id},src=FILE')
            return []
        if mount.env:
            variables.append(f"{mount.env}={value.decode('utf-8', 'surrogateescape')}")
            if not mount.target:
                return []
        folder = self._build.tools.run_folder / f"secrets-{id}"
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
        file = folder / secrets.token_hex(8)
        await finish(asyncio.to_thread(_write_secret, file, value, mount))
        return [RunMount(target=_absolute(mount.target or f"run/secrets/{posixpath.basename(mount.id)}"), source=file)]

    async def _agent(self, stack: AsyncExitStack, mount: Mount, name: str) -> Path | None:
        agent = self._build.options.agents.get(mount.id)
        if agent is None:
            if mount.required:
                raise InvalidArgument(f'unset ssh forward key "{mount.id}": pass it with --ssh')
            return None
        owner = Owner(mount.uid or 0, mount.gid or 0)
        folder = self._build.tools.run_folder / f"agent-{name}"
        return await stack.enter_async_context(
            forwarded(agent, folder, owner, 0o600 if mount.mode is None else mount.mode)
        )


def _absolute(target: str) -> str:
    """Where secrets and agents go: their targets begin at the root, whatever the working directory is."""
    return posixpath.normpath("/" + target.lstrip("/"))


def _copy(source: Path, target: Path) -> None:
    """Begin a cache with files of a stage or image: with owners, times, links and attributes as they are."""
    done = subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", str(target)], capture_output=True)
    if done.returncode:
        raise Unavailable(f"failed to begin a cache mount: {done.stderr.decode(errors='replace').strip()}")


def _write_secret(file: Path, value: bytes, mount: Mount) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(value)
    os.chown(file, mount.uid or 0, mount.gid or 0)
    file.chmod(0o400 if mount.mode is None else mount.mode)


def _prepare_cache(top: Path, mount: Mount) -> None:
    if mount.uid is not None or mount.gid is not None:
        os.chown(top, mount.uid or 0, mount.gid or 0)
    if mount.mode is not None:
        top.chmod(mount.mode)
