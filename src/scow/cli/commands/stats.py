"""`scow stats`: a table of what containers use, renewed every half second."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.listing import format_flag, print_listing
from scow.cli.units import bytes_size, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
RENEWAL_S = 0.5
NOTHING = "--"


def cpu_percent(sample: dict[str, Any]) -> float:
    """The container's share of one CPU between a sample and the one before, in percent."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    spent = (now.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    online = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or [])
    return float(spent / system * online * 100) if system > 0 and spent > 0 else 0.0


def memory_used(memory: dict[str, Any]) -> int:
    """Memory without the page cache that can be dropped, as docker counts it: cgroup v1's name first."""
    usage, stats = int(memory.get("usage", 0)), memory.get("stats") or {}
    for name in ("total_inactive_file", "inactive_file"):
        if 0 < stats.get(name, 0) < usage:
            return usage - int(stats[name])
    return usage


def io_sums(sample: dict[str, Any]) -> tuple[int, int]:
    """Bytes read from and written to block devices."""
    read = written = 0
    for entry in (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []:
        if entry["op"].lower() == "read":
            read += entry["value"]
        elif entry["op"].lower() == "write":
            written += entry["value"]
    return read, written


def fields(truncate: bool) -> dict[str, Any]:
    """The columns. A container without a sample yet has dashes."""

    def shown(show: Any) -> Any:
        return lambda item: show(item) if item.get("cpu_stats") else NOTHING

    def memory(item: dict[str, Any]) -> str:
        usage = item.get("memory_stats") or {}
        return f"{bytes_size(memory_used(usage))} / {bytes_size(usage.get('limit', 0))}"

    def share(item: dict[str, Any]) -> str:
        usage = item.get("memory_stats") or {}
        limit = usage.get("limit", 0)
        return f"{memory_used(usage) / limit * 100 if limit else 0:.2f}%"

    def network(item: dict[str, Any]) -> str:
        counters = (item.get("networks") or {}).values()
        received, sent = (sum(each[name] for each in counters) for name in ("rx_bytes", "tx_bytes"))
        return f"{human_size(received)} / {human_size(sent)}"

    def blocks(item: dict[str, Any]) -> str:
        read, written = io_sums(item)
        return f"{human_size(read)} / {human_size(written)}"

    return {
        "Container": ("CONTAINER", lambda item: item["asked"]),
        "ID": ("CONTAINER ID", lambda item: item["id"][:12] if truncate else item["id"]),
        "Name": ("NAME", lambda item: item.get("name", "").lstrip("/") or NOTHING),
        "CPUPerc": ("CPU %", shown(lambda item: f"{cpu_percent(item):.2f}%")),
        "MemUsage": ("MEM USAGE / LIMIT", shown(memory)),
        "MemPerc": ("MEM %", shown(share)),
        "NetIO": ("NET I/O", shown(network)),
        "BlockIO": ("BLOCK I/O", shown(blocks)),
        "PIDs": ("PIDS", shown(lambda item: str((item.get("pids_stats") or {}).get("current", 0)))),
    }


class _Watch:
    """The samples of one container, read by a thread of its own."""

    def __init__(self, session: Session, asked: str) -> None:
        self.asked = asked
        self.sample: dict[str, Any] = {"id": asked, "name": "", "asked": asked}
        self.error: CliError | None = None
        self.ended = False
        self._session = session

    def start(self, stream: bool) -> Any:
        import threading

        thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        thread.start()
        return thread

    def _read(self, stream: bool) -> None:
        from scow.cli.engine import Engine

        # A connection of its own for each thread.
        engine = Engine(self._session.host, f"{self._session.engine.version[0]}.{self._session.engine.version[1]}")
        try:
            query = {"stream": "1" if stream else "0"}
            response = engine.open("GET", f"/containers/{quote(self.asked)}/stats", query)
            for sample in response.messages():
                sample["asked"] = self.asked
                self.sample = sample
        except CliError as error:
            self.error = error
        except (HttpError, OSError, ValueError):
            pass
        self.ended = True


def stats(session: Session, options: Options) -> int:
    """Show what containers use; without `--no-stream` until interrupted."""
    watches: dict[str, _Watch] = {}
    follow = not options.args
    stream = not options.flag("no-stream")
    template = options.text("format") or session.config.text("statsFormat")
    threads: list[Any] = []

    def look() -> None:
        wanted = options.args
        if follow:
            query = {"all": "1"} if options.flag("all") else {}
            wanted = [item["Id"] for item in session.engine.get("/containers/json", query)]
        for ref in wanted:
            if ref not in watches:
                watches[ref] = _Watch(session, ref)
                threads.append(watches[ref].start(stream))

    def show() -> None:
        found = [watch.sample for watch in watches.values() if not (follow and watch.ended and stream)]
        print_listing(found, fields(not options.flag("no-trunc")), COLUMNS, template, "container.statsContext")
        sys.stdout.flush()

    look()
    if not stream:
        for thread in threads:
            thread.join()
        _complain(watches, follow)
        show()
        return 0
    import time

    while True:
        _complain(watches, follow)
        if session.is_terminal(1):
            sys.stdout.write("\033[2J\033[H")
        show()
        if not follow and all(watch.ended for watch in watches.values()):
            return 0
        time.sleep(RENEWAL_S)
        if follow:
            look()


def _complain(watches: dict[str, _Watch], follow: bool) -> None:
    """Raise what the engine said of containers that were asked for by name."""
    errors = [watch.error.message for watch in watches.values() if watch.error is not None]
    if errors and not follow:
        raise CliError("\n".join(errors))


COMMANDS = {
    "stats": Command(
        stats,
        "[CONTAINER...]",
        (
            Flag("all", "a", "bool", "Show all containers (default shows just running)"),
            format_flag(),
            Flag("no-stream", "", "bool", "Disable streaming stats and only pull the first result"),
            Flag("no-trunc", "", "bool", "Do not truncate output"),
        ),
        0,
        None,
    ),
}
