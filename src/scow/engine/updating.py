"""Changing the limits and the restart policy of a container that exists. Engine API, POST /containers/{id}/update."""

import msgspec

from scow.engine import validation
from scow.engine.container import Container, ContainerTable
from scow.engine.creation import attributes_of, discarded
from scow.engine.events import Events
from scow.engine.resources import Resources
from scow.errors import Conflict, InvalidArgument
from scow.runtime.limits import resources as limits
from scow.wire.container import UpdateReply, UpdateRequest
from scow.wire.host_config import HostConfig
from scow.wire.host_config import Resources as Limits

PERIOD_AND_QUOTA = (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota"))


class Updates:
    """Updates containers, one at a time each."""

    def __init__(self, table: ContainerTable, resources: Resources, events: Events) -> None:
        self._table = table
        self._resources = resources
        self._events = events

    async def update(self, ref: str, request: UpdateRequest) -> UpdateReply:
        """Change what the request names, in the record and in a running container. Raises InvalidArgument, Conflict."""
        container = self._table.get(ref)
        async with container.lock:
            if container.removing or container.state.status in ("removing", "dead"):
                raise Conflict(
                    f'Cannot update container {container.id}: container is marked for removal and cannot be "update"'
                )
            try:
                changed, warnings = discarded(merge(container, request))
            except Conflict as error:
                raise Conflict(f"Cannot update container {container.id}: {error}") from error
            validation.check_container(container.record.config, changed)
            if container.state.live:
                wanted = _limits(container.record.host_config, changed, request)
                if wanted:
                    await self._resources.update(container, wanted)
                if container.record.host_config.pids_limit is not None and changed.pids_limit is None:
                    await self._resources.lift_process_limit(container)
            await self._table.save(container, msgspec.structs.replace(container.record, host_config=changed))
        self._events.emit("container", "update", container.id, attributes_of(container))
        return UpdateReply(warnings=warnings or None)


def merge(container: Container, request: UpdateRequest) -> HostConfig:
    """The container's HostConfig with what the request names. Raises Conflict, InvalidArgument in docker's words."""
    host = container.record.host_config
    changes: dict[str, object] = {}
    for name in Limits.__struct_fields__:
        value = getattr(request, name)
        if value or (name in ("pids_limit", "memory_swappiness", "oom_kill_disable") and value is not None):
            changes[name] = value
    for name, words in PERIOD_AND_QUOTA:
        if name in changes and host.nano_cpus and "nano_cpus" not in changes:
            raise Conflict(f"Conflicting options: {words} cannot be updated as NanoCPUs has already been set")
        if "nano_cpus" in changes and getattr(host, name) and name not in changes:
            raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as {words} has already been set")
    if "memory" in changes and "memory_swap" not in changes and 0 < host.memory_swap < request.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if request.pids_limit is not None and request.pids_limit <= 0:
        changes["pids_limit"] = None
    policy = request.restart_policy
    if policy is not None and policy.name:
        if host.auto_remove and policy.name != "no":
            raise InvalidArgument("Restart policy cannot be updated because AutoRemove is enabled for the container")
        changes["restart_policy"] = policy
    return msgspec.structs.replace(host, **changes)


def _limits(before: HostConfig, after: HostConfig, request: UpdateRequest) -> dict[str, object]:
    """What the runtime is to change, as linux.resources."""
    names = [name for name in Limits.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    if not names:
        return {}
    if {"memory", "memory_swap"} & set(names):
        names += ["memory", "memory_swap"]  # their order of writing is the runtime's matter, so it gets both
    wanted: dict[str, object] = limits(HostConfig(**{name: getattr(after, name) for name in set(names)}))
    return wanted
