"""`scow update`: other limits for containers that exist."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.commands.lifecycle import each
from scow.cli.container_config import restart_policy
from scow.cli.container_flags import CONTAINER_FLAGS
from scow.cli.flags import Flag, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

FIELDS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}


def update(session: Session, options: Options) -> int:
    """Change containers' limits and restart policies."""
    request: dict[str, Any] = {field: options.value(name) for name, field in FIELDS.items() if options.changed(name)}
    if options.text("restart"):
        request["RestartPolicy"] = restart_policy(options.text("restart"))
    warnings: list[str] = []

    def act(name: str) -> None:
        answer = session.engine.post(f"/containers/{name}/update", None, request) or {}
        warnings.extend(answer.get("Warnings") or [])

    code = each(session, options.args, act)
    if warnings:
        session.warn("\n".join(warnings))
    return code


RESTART = Flag("restart", "", "string", "Restart policy to apply when a container exits")

COMMANDS = {
    "update": Command(
        update,
        "CONTAINER [CONTAINER...]",
        (*(flag for flag in CONTAINER_FLAGS if flag.name in FIELDS), RESTART),
        1,
        None,
        long="Update configuration of one or more containers",
    ),
}
