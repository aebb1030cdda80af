"""What a COPY or ADD takes: selections of the context, of stages and images, of downloads, archives and texts."""

import asyncio
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from scow.build import instructions as kinds
from scow.build.cache import Sources, step_key
from scow.build.compose import Owner
from scow.build.context import Context
from scow.build.ignore import BadPattern, Ignore
from scow.build.run_mounts import Origins
from scow.build.selection import Keep, Selected, digest, everything, select
from scow.build.sources import Remote, archive_tree, is_remote, texts_tree
from scow.build.tools import Build
from scow.build.trees import DirectoryTree, Tree, join
from scow.errors import InvalidArgument
from scow.store.snapshots import finish
from scow.store.tree import Node


class Origin(NamedTuple):
    """Some of the sources, of one tree."""

    tree: Tree
    selections: Sequence[Selected]
    keep: Keep
    owners: bool  # the files' own count
    archive: bool = False  # its entries replace what is in their way, as tar does


class CopySources:
    """Finds what the copies of one build take."""

    def __init__(self, build: Build, context: Context, origins: Origins, ignored: Keep) -> None:
        self._build = build
        self._context = context
        self._origins = origins
        self._ignored = ignored

    async def open(self, stack: AsyncExitStack, one: kinds.Copy) -> list[Origin]:
        """What an instruction takes, there until `stack` is closed.

        Raises NothingFound, InvalidArgument, Unavailable.
        """
        folder = self._build.tools.folder / f"copy-{secrets.token_hex(8)}"
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
        remote = [isinstance(one, kinds.Add) and is_remote(source) for source in one.sources]
        if isinstance(one, kinds.Add) and one.checksum and (len(one.sources) + len(one.inline) > 1 or not all(remote)):
            raise InvalidArgument("checksum requires a single source, from HTTP(S) or git")
        excluded = _excluded(one.exclude)
        found: list[Origin] = []
        tree: Tree = self._context.tree
        keep, owners = self._ignored, False
        if one.source_stage:
            layers = await self._origins.layers_of(one.source_stage)
            top = await stack.enter_async_context(self._build.tools.store.snapshots.view(layers))
            tree, keep, owners = DirectoryTree(top), everything, True
        else:
            await stack.enter_async_context(self._context.used())
        for source, is_elsewhere in zip(one.sources, remote, strict=True):
            if is_elsewhere:
                assert isinstance(one, kinds.Add)
                found += await self._fetched(stack, one, source, folder, excluded)
                continue
            plain: list[Selected] = []
            for each in await finish(asyncio.to_thread(select, tree, source, keep, parents=one.parents)):
                inner = None
                if isinstance(one, kinds.Add) and one.unpack is not False and not each.node.is_directory:
                    inner = await archive_tree(tree, folder, each.path, each.node)
                if inner is None:
                    plain.append(each)
                else:
                    stack.callback(inner.close)
                    found.append(Origin(inner, [Selected(b"", inner.root, b"")], everything, True, True))
            found += _without(Origin(tree, plain, keep, owners), excluded, one.parents)
        if one.inline:
            texts = await texts_tree({each.name: each.text for each in one.inline}, folder)
            stack.callback(texts.close)
            named = [Selected(name, node, name) for name, node in texts.children(b"", texts.root)]
            found.append(Origin(texts, named, everything, False))
        return found

    async def _fetched(
        self, stack: AsyncExitStack, one: kinds.Add, source: str, folder: Path, excluded: Ignore
    ) -> list[Origin]:
        """What is at a URL or in a repository."""
        options = self._build.options
        remote = Remote(
            source, options.git_access, checksum=one.checksum, keep_git_dir=one.keep_git_dir, epoch=options.epoch
        )
        fetched = await remote.fetch(folder)
        if remote.material is not None:
            self._build.materials.append(remote.material)
        if one.unpack and (inner := await archive_tree(fetched, folder)) is not None:
            stack.callback(inner.close)
            return [Origin(inner, [Selected(b"", inner.root, b"")], everything, True, True)]
        if remote.is_git:
            selections = await finish(asyncio.to_thread(select, fetched, remote.folder or "."))
        else:
            selections = [Selected(name, node, name) for name, node in fetched.children(b"", fetched.root)]
        return list(_without(Origin(fetched, selections, everything, False), excluded, False))

    async def digests(self, origins: Sequence[Origin], one: kinds.Copy, owner: Owner | None) -> Sources:
        """What is copied, by digests of it all."""
        several = sum(len(origin.selections) for origin in origins) > 1 or len(one.sources) + len(one.inline) > 1
        digests = await finish(
            asyncio.to_thread(
                lambda: [
                    digest(each.tree, each.selections, each.keep, owners=each.owners and owner is None)
                    for each in origins
                ]
            )
        )
        return Sources(digests=tuple(digests), several=several, shown=_shown(origins, digests, several))


def _excluded(patterns: Sequence[str]) -> Ignore:
    try:
        return Ignore(list(patterns))
    except BadPattern as error:
        raise InvalidArgument(f"invalid --exclude: {error}") from error


def _without(origin: Origin, excluded: Ignore, parents: bool) -> Iterator[Origin]:
    """An origin without what --exclude names: by paths below the source, or with --parents as they will be."""
    if not excluded:
        if origin.selections:
            yield origin
        return
    for each in origin.selections:
        start = len(each.path) + 1 if each.path else 0
        above = each.name if parents else b""

        def keep(path: bytes, node: Node, start: int = start, above: bytes = above) -> bool:
            below = join(above, path[start:]) if path[start:] else above
            return origin.keep(path, node) and not excluded.excludes(below.decode("utf-8", "surrogateescape"))

        if each.node.is_directory or not excluded.excludes(each.name.decode("utf-8", "surrogateescape")):
            yield origin._replace(selections=[each], keep=keep)


def _shown(origins: Sequence[Origin], names: Sequence[str], several: bool) -> str:
    """What docker's history calls the files of a copy, by digests of each."""
    if several or len(names) != 1:
        return f"multi:{step_key(names)}"
    selections = origins[0].selections
    kind = "dir" if len(selections) == 1 and selections[0].node.is_directory and not selections[0].name else "file"
    return f"{kind}:{names[0]}"
