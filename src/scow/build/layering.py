"""Layers that are composed: a thread writes the tar while a worker takes it."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack

from scow.build.compose import Composer
from scow.oci.digest import DiffID
from scow.oci.media_types import Compression
from scow.store.layer_records import Layer
from scow.store.store import Store


async def compose_layer(
    store: Store,
    base: tuple[DiffID, ...],
    fill: Callable[[Composer], None],
    *,
    look: bool = True,
    epoch: int | None = None,
    now: int = 0,
) -> Layer | None:
    """Make a layer that stands on `base` of what `fill` puts into it; None if that is nothing.

    Without `look` what is below isn't looked at, and the layer can stand on anything.
    """
    async with AsyncExitStack() as stack:
        lower = await stack.enter_async_context(store.snapshots.view(base)) if look and base else None
        writer = await stack.enter_async_context(store.layers.writer(None, Compression.NONE))
        out = writer.descriptor()

        def work() -> bool:
            # The descriptor is this thread's: it ends when the thread does, whoever was cancelled meanwhile.
            try:
                composer = Composer(out, lower, epoch=epoch, now=now)
                fill(composer)
                if composer.written:
                    composer.finish()
                return composer.written
            finally:
                os.close(out)

        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            written = await asyncio.shield(task)
        except BrokenPipeError:
            written = True  # the worker refused something: it says what
        except asyncio.CancelledError:
            writer.end()  # ends the thread: nobody reads its pipe any more
            await asyncio.wait([task])
            task.exception()
            raise
        return await writer.finish() if written else None
