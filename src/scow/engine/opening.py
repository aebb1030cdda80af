"""How an engine is opened without waiting for others one after the other.

For the runtime's self-check and nftables' process other programs work for a third of the time that a start takes. They
need nothing but the configuration: so they begin first, and go on while the engine's own modules are read, which is
why none of those is imported here.
"""

import asyncio
from typing import TYPE_CHECKING

from scow.engine.config import EngineConfig
from scow.linux.nftables import Nftables
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.selection import choose_runtimes

if TYPE_CHECKING:
    from scow.engine.engine import Engine


class HeadStart:
    """What was begun; `aclose` ends it, whether somebody came to need it or not."""

    def __init__(self, config: EngineConfig) -> None:
        configured = {name: (runtime.path or name, *runtime.runtime_args) for name, runtime in config.runtimes.items()}
        self.nftables = Nftables()
        self._tasks = (
            asyncio.create_task(choose_runtimes(config.default_runtime, configured, config.exec_root), name="runtimes"),
            asyncio.create_task(asyncio.to_thread(self.nftables.begin), name="nftables"),
        )

    async def runtimes(self) -> tuple[dict[str, OciRuntime], str]:
        """What `choose_runtimes` found. Raises what it raises."""
        return await self._tasks[0]

    async def aclose(self) -> None:
        """Let go of all of it. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.nftables.close)


async def open_engine(config: EngineConfig) -> "Engine":
    """Open an engine. Raises what `Engine.open` raises."""
    head_start = HeadStart(config)
    try:
        engine = await asyncio.to_thread(_engine)
    except BaseException:
        await head_start.aclose()
        raise
    return await engine.open(config, head_start)


def _engine() -> "type[Engine]":
    from scow.engine.engine import Engine

    return Engine
