"""`--squash`: all that a build put on its base as one layer, as docker's classic builder makes it."""

from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from scow.build.compose import Composer
from scow.build.image_state import ImageState, format_created
from scow.build.layering import compose_layer
from scow.build.trees import DirectoryTree, Tree
from scow.oci.image_config import History
from scow.store.store import Store
from scow.store.tarstream import TarReader
from scow.store.tree import Node

_PIECE = 1 << 20


async def squash(store: Store, state: ImageState, base: ImageState, *, now_ns: int, epoch: int | None) -> ImageState:
    """The state with one layer in place of those that it has over `base`. Hold a lease around it.

    The history keeps the steps, as such that made no layer, and ends with one that names what was merged.
    """
    count = len(base.diff_ids)
    added = state.diff_ids[count:]
    made = None
    if added:
        async with AsyncExitStack() as stack:
            whole = await stack.enter_async_context(store.snapshots.view(state.diff_ids))
            below = await stack.enter_async_context(store.snapshots.view(base.diff_ids)) if count else None
            tars = [await store.layers.tar(diff_id) for diff_id in dict.fromkeys(added)]
            made = await compose_layer(
                store,
                base.diff_ids,
                lambda composer: _fill(composer, whole, below, tars),
                epoch=epoch,
                now=now_ns // 1_000_000_000,
            )
    steps = [
        msgspec.structs.replace(step, empty_layer=True) if number >= len(base.history) else step
        for number, step in enumerate(state.history)
    ]
    created = format_created(now_ns if epoch is None else epoch * 1_000_000_000)
    comment = f"merge {state.id} to {base.id}" if base.history or count else f"create new from {state.id}"
    return msgspec.structs.replace(
        state,
        diff_ids=base.diff_ids if made is None else (*base.diff_ids, made.diff_id),
        history=(*steps, History(created=created, comment=comment, empty_layer=made is None)),
        created=created,
        based_on=None,
        keys=(),
    )


def _fill(composer: Composer, whole: Path, below: Path | None, tars: Iterable[Path]) -> None:
    """Write what the layers in these tars made of the tree below. Blocks."""
    after = DirectoryTree(whole)
    before = None if below is None else DirectoryTree(below)
    touched = {path for tar in tars for path in _paths(tar) if path}
    for path in sorted(touched, key=lambda each: each.split(b"/")):
        node = _at(after, path)
        old = None if before is None else _at(before, path)
        if node is None:
            above = path.rpartition(b"/")[0]
            folder = _at(after, above)
            if old is not None and folder is not None and folder.is_directory:
                composer.hide(path)
            continue
        composer.place(after, path, node)
        if before is not None and old is not None and old.is_directory and node.is_directory:
            # A directory may have been removed and made anew: what it had is then in no layer's tar.
            kept = {name for name, _ in after.children(path, node)}
            for name, _ in before.children(path, old):
                if name not in kept and path + b"/" + name not in touched:
                    composer.hide(path + b"/" + name)


def _paths(tar: Path) -> Iterator[bytes]:
    reader = TarReader()
    with open(tar, "rb") as file:
        while data := file.read(_PIECE):
            reader.feed(data)
    for path, _ in reader.finish().walk():
        yield path


def _at(tree: Tree, path: bytes) -> Node | None:
    """What has a path, if no symlink is on the way."""
    node = tree.root
    here = b""
    for name in path.split(b"/") if path else ():
        if not node.is_directory:
            return None
        found = tree.child(here, node, name)
        if found is None:
            return None
        here, node = (here + b"/" + name if here else name), found
    return node
