"""Waiting for a container. The wait is registered at once, so that nothing that happens after is missed."""

import asyncio

from scow.engine.container import Container, Outcome
from scow.errors import InvalidArgument
from scow.wire.container import WaitError, WaitReply


class Waiter:
    """A registered wait; `result()` is there when its condition is met."""

    def __init__(self, future: "asyncio.Future[Outcome]") -> None:
        self._future = future

    async def result(self) -> WaitReply:
        """Wait, and tell how the container ended."""
        outcome = await asyncio.shield(self._future)
        error = WaitError(message=outcome.error) if outcome.error else None
        return WaitReply(status_code=outcome.exit_code, error=error)


def wait_for(container: Container, condition: str) -> Waiter:
    """Wait for `not-running` (the default), `next-exit` or `removed`. Raises InvalidArgument for others."""
    if condition == "next-exit":
        return Waiter(container.next_exit)
    if condition == "removed":
        return Waiter(container.gone)
    if condition not in ("", "not-running"):
        raise InvalidArgument(f'invalid condition: "{condition}"')
    state = container.state
    if state.live or state.status in ("starting", "restarting"):
        return Waiter(container.not_running)
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    done.set_result(Outcome(state.exit_code, state.error))
    return Waiter(done)
