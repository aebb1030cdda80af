"""After a start of the engine: what the records say, compared with what runs, and made true again.

What runs is asked of conmon's pid and exit files, never remembered (design.md). Containers that run go on running; of
those that ended meanwhile the exit is dealt with as if it had just happened; what a killed engine left half done is
finished or undone.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping, Set
from pathlib import Path

import msgspec

from scow.engine.container import Container, ContainerTable
from scow.engine.lifecycle import Lifecycle
from scow.engine.record import now_ns
from scow.engine.removal import Removal
from scow.engine.resources import Resources
from scow.engine.restart import should_start_at_boot
from scow.errors import ScowError
from scow.network.networks import Networks
from scow.runtime.monitor import Alive, Exited
from scow.wire.network import EndpointSettings

log = logging.getLogger(__name__)

REMOVAL_TIMEOUT_S = 10.0
LOST_EXIT_CODE = 255


class Recovery:
    """Runs once, before the engine answers."""

    def __init__(
        self,
        table: ContainerTable,
        lifecycle: Lifecycle,
        removal: Removal,
        resources: Resources,
        networks: Networks,
        containers_root: Path,
    ) -> None:
        self._table = table
        self._lifecycle = lifecycle
        self._removal = removal
        self._resources = resources
        self._networks = networks
        self._containers_root = containers_root
        self._undone: set[str] = set()  # containers whose start was cut off before there was a process

    async def run(self) -> None:
        """Bring records and world together."""
        await asyncio.to_thread(self._drop_unknown_folders)
        ended: list[tuple[Container, int, str, int, bool]] = []
        live: list[str] = []
        for container in self._table:
            status = container.state.status
            if status not in ("running", "paused", "starting"):
                continue
            found = await self._resources.probe(container)
            if isinstance(found, Alive):
                await self._adopt(container, found.pid)
                live.append(container.id)
            elif isinstance(found, Exited):
                if status == "starting":  # killed between the runtime's start and our note of it
                    await self._table.set_state(container, started_at=found.exit.at, ever_started=True)
                ended.append((container, found.exit.exit_code, "", found.exit.at, found.exit.oom_killed))
            elif status == "starting":
                await self._undo_start(container)
            elif container.is_lost:
                error = "what the engine knew of this container was damaged: it can only be removed"
                await self._table.note(container, container.record.with_state(status="dead", error=error))
            else:
                error = "the container's processes and its monitor vanished while the engine was not running"
                ended.append((container, LOST_EXIT_CODE, error, 0, False))
        await self._networks.reconcile(live)
        await self._resources.reconcile(live, [container.id for container, *_ in ended])
        for container, code, error, at, oom_killed in ended:
            async with container.lock:
                at = at or now_ns()
                await self._lifecycle.settle(container, code, error=error, at=at, oom_killed=oom_killed, schedule=False)
        for container in self._table:
            await self._finish(container)

    def start_what_is_due(self) -> None:
        """Start, in the background, containers whose restart policy says so."""
        due: dict[str, Container] = {}
        for container in self._table:
            state = container.state
            if state.status == "restarting" and container.restart is None:
                due[container.id] = container
            elif state.status in ("exited", "dead") or (state.status == "created" and state.ever_started):
                policy = container.record.host_config.restart_policy
                if container.restart is None and should_start_at_boot(
                    policy, state.exit_code, state.restart_count, stopped_by_user=state.stopped_by_user
                ):
                    due[container.id] = container
        starts: dict[str, asyncio.Task[None]] = {}
        for id in needed_first({id: self._needed(container) & due.keys() for id, container in due.items()}):
            after = [starts[other] for other in self._needed(due[id]) if other in starts]
            again = due[id].state.status == "restarting"
            start = self._lifecycle.schedule_restart if again else self._lifecycle.start_in_background
            starts[id] = start(due[id], after)

    def _needed(self, container: Container) -> set[str]:
        """The containers that have to run before this one can: whose namespaces it joins, and to which it links."""
        host = container.record.host_config
        modes = (host.network_mode, host.pid_mode, host.ipc_mode)
        found = set(container.record.links.values())
        for mode in modes:
            with contextlib.suppress(ScowError):  # gone, or not to be told from others: then it waits for nobody
                if mode.startswith("container:"):
                    found.add(self._table.get(mode.partition(":")[2]).id)
        return found

    async def _adopt(self, container: Container, pid: int) -> None:
        if container.is_lost:
            attached = {each.network_name: EndpointSettings() for each in self._networks.of_container(container.id)}
            await self._table.save(container, msgspec.structs.replace(container.record, endpoints=attached))
        if container.state.status == "starting":
            # Killed between the runtime's create and our note that it runs: finish the start.
            await self._resources.finish_start(container)
            await self._table.set_state(
                container, status="running", pid=pid, started_at=now_ns(), finished_at=0, ever_started=True
            )
        elif container.state.pid != pid:
            await self._table.set_state(container, pid=pid)
        if container.state.held_by_commit:
            # The engine was killed during a commit, which would have let the container go on.
            with contextlib.suppress(ScowError):  # it may not be frozen, if the kill came first
                await self._resources.resume(container)
            await self._table.set_state(container, status="running", held_by_commit=False)

    async def _undo_start(self, container: Container) -> None:
        await self._resources.release(container)
        self._undone.add(container.id)
        before = "exited" if container.state.ever_started else "created"
        await self._table.set_state(container, status=before, pid=0)

    async def _finish(self, container: Container) -> None:
        """Finish removals that were under way."""
        due = container.state.status == "removing" or (
            container.record.host_config.auto_remove
            and (container.state.status in ("exited", "dead") or container.id in self._undone)
        )
        if due and container.removing:
            # Its own `--rm` has begun to remove it: whoever asks the engine first shall not find it any more.
            await asyncio.wait((container.gone,), timeout=REMOVAL_TIMEOUT_S)
        elif due:
            container.removal_begins()
            try:
                async with container.lock:
                    volumes = container.state.remove_volumes or container.state.status != "removing"
                    await self._removal.forget(container, volumes=volumes)
            except (ScowError, OSError) as error:
                container.removal_failed()
                log.error("container %s could not be removed: %s", container.id, error)

    def _drop_unknown_folders(self) -> None:
        self._containers_root.mkdir(parents=True, exist_ok=True)
        known = {container.id for container in self._table}
        for folder in self._containers_root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)


def needed_first(needs: Mapping[str, Set[str]]) -> list[str]:
    """Order IDs so that each comes after those that it needs; who needs each other comes in any order."""
    found: list[str] = []
    seen: set[str] = set()

    def visit(id: str) -> None:
        if id not in seen:
            seen.add(id)
            for other in sorted(needs[id]):
                visit(other)
            found.append(id)

    for id in needs:
        visit(id)
    return found
