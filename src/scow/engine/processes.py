"""The processes of a container, as the machine's `ps` tells them. Engine API, GET /containers/{id}/top."""

import asyncio
from collections.abc import Iterable

from scow.errors import InvalidArgument
from scow.wire.container import TopReply

DEFAULT_PS_ARGS = "-ef"


async def top(pids: Iterable[int], ps_args: str) -> TopReply:
    """Run `ps` with the wanted columns and keep the container's rows. Raises InvalidArgument for bad arguments."""
    args = (ps_args or DEFAULT_PS_ARGS).split()
    process = await asyncio.create_subprocess_exec(
        "ps", *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, problem = await process.communicate()
    if process.returncode != 0:
        first, _, _ = problem.decode(errors="replace").partition("\n")
        raise InvalidArgument(f"ps: {first or f'exit status {process.returncode}'}")
    lines = output.decode(errors="replace").splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column, wanted = titles.index("PID"), {str(pid) for pid in pids}
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    found = [row for row in rows if len(row) > column and row[column] in wanted]
    return TopReply(processes=found, titles=titles)
