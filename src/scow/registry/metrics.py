"""Counts what happens, in memory that all workers of one registry share, and shows it as Prometheus reads it.

Each worker writes its own row of numbers and whoever is asked adds the rows up, so nothing is locked and any worker
can answer for all.
"""

import mmap
from collections.abc import Iterator
from typing import Final

ENDPOINTS: Final = (
    *("ping", "catalog", "manifest", "blob", "uploads", "upload", "tags", "referrers", "token", "keys"),
    *("health", "metrics", "other"),
)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OTHER")
CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
COUNTERS: Final = {
    "received_bytes": "Bytes of request bodies.",
    "sent_bytes": "Bytes of answers' bodies.",
    "authentication_failures": "Wrong passwords and tokens.",
    "refused_rate": "Requests refused because their client sent too many.",
    "tokens_issued": "Tokens that were issued.",
    "collected_blobs": "Blobs that garbage collection removed.",
    "collected_uploads": "Uploads that expired.",
    "collected_tags": "Tags that retention removed.",
    "collected_manifests": "Manifests that retention removed.",
    "upstream_hits": "Pulls that were served from the copies of other registries' repositories.",
    "upstream_misses": "Manifests and blobs that had to be fetched from another registry.",
    "upstream_stale": "Tags that were served as they were because the upstream could not be asked.",
    "upstream_requests": "Requests sent to other registries.",
    "upstream_failures": "Requests to other registries that failed or were refused.",
    "upstream_bytes": "Bytes of blobs fetched from other registries.",
    "webhook_events": "Events that endpoints have taken.",
    "webhook_failures": "Requests that endpoints have not taken.",
    "webhook_events_dropped": "Events that were given up.",
}
GAUGES: Final = {
    "requests_in_flight": "Requests that are being answered.",
    "upstream_fetches": "Blobs that are being fetched from other registries.",
}

MOMENTS: Final = {
    "tls_certificate_expiry_timestamp_seconds": "When the certificate, or one of its chain, expires.",
}
"""Seconds since the epoch, of one worker alone; not shown as long as there is none."""

_ENDPOINT: Final = {name: number for number, name in enumerate(ENDPOINTS)}
_METHOD: Final = {name: number for number, name in enumerate(METHODS)}
_TIMES: Final = len(BUCKETS) + 2  # the last bucket, and the sum
_REQUESTS_AT: Final = 0
_TIMES_AT: Final = len(ENDPOINTS) * len(METHODS) * len(CLASSES)
_COUNTERS_AT: Final = _TIMES_AT + len(ENDPOINTS) * _TIMES
_SLOT: Final = {name: _COUNTERS_AT + number for number, name in enumerate([*COUNTERS, *GAUGES, *MOMENTS])}
ROW: Final = _COUNTERS_AT + len(_SLOT)
"""Numbers of one worker."""


def shared_memory(workers: int) -> "memoryview[float]":
    """Room for the numbers of so many workers, shared with processes that are forked from this one."""
    return memoryview(mmap.mmap(-1, workers * ROW * 8)).cast("d")


class Metrics:
    """The numbers of one worker, and the sums over all."""

    def __init__(self, memory: "memoryview[float] | None" = None, worker: int = 0) -> None:
        self._all: memoryview[float] = memory if memory is not None else shared_memory(1)
        self._own = self._all[worker * ROW : (worker + 1) * ROW]
        for slot in (_SLOT[name] for name in (*GAUGES, *MOMENTS)):
            self._own[slot] = 0.0  # of a worker that died

    def count(self, name: str, by: float = 1.0) -> None:
        """Add to a counter or gauge."""
        self._own[_SLOT[name]] += by

    def set(self, name: str, value: float) -> None:
        """Say what a moment is. To be called by one of the workers only."""
        self._own[_SLOT[name]] = value

    def observe(self, endpoint: str, method: str, status: int, took_s: float) -> None:
        """Count an answered request."""
        kind = _ENDPOINT.get(endpoint, len(ENDPOINTS) - 1)
        row = kind * len(METHODS) + _METHOD.get(method, len(METHODS) - 1)
        self._own[row * len(CLASSES) + status // 100 - 1] += 1
        place = next((number for number, limit in enumerate(BUCKETS) if took_s <= limit), len(BUCKETS))
        self._own[_TIMES_AT + kind * _TIMES + place] += 1
        self._own[_TIMES_AT + kind * _TIMES + _TIMES - 1] += took_s

    def value(self, name: str) -> float:
        """A counter or gauge over all workers."""
        return self._sum(_SLOT[name])

    def _sum(self, slot: int) -> float:
        return sum(self._all[slot::ROW])

    def text(self) -> str:
        """Everything in Prometheus' text format, version 0.0.4."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        name = "scow_registry_requests_total"
        yield from (f"# HELP {name} Requests answered.", f"# TYPE {name} counter")
        slot = _REQUESTS_AT
        for endpoint in ENDPOINTS:
            for method in METHODS:
                for status in CLASSES:
                    if count := self._sum(slot):
                        yield f'{name}{{endpoint="{endpoint}",method="{method}",status="{status}"}} {count:.0f}'
                    slot += 1
        name = "scow_registry_request_seconds"
        yield from (f"# HELP {name} Time to the last byte of the answer.", f"# TYPE {name} histogram")
        for kind, endpoint in enumerate(ENDPOINTS):
            counts = [self._sum(_TIMES_AT + kind * _TIMES + number) for number in range(_TIMES)]
            if not any(counts):
                continue
            total = 0.0
            for limit, count in zip((*map(str, BUCKETS), "+Inf"), counts[:-1], strict=True):
                total += count
                yield f'{name}_bucket{{endpoint="{endpoint}",le="{limit}"}} {total:.0f}'
            yield f'{name}_sum{{endpoint="{endpoint}"}} {counts[-1]:.6f}'
            yield f'{name}_count{{endpoint="{endpoint}"}} {total:.0f}'
        for kind_of, names, ending in (("counter", COUNTERS, "_total"), ("gauge", GAUGES, ""), ("gauge", MOMENTS, "")):
            for short, help_text in names.items():
                if names is MOMENTS and not self._sum(_SLOT[short]):
                    continue
                name = f"scow_registry_{short}{ending}"
                yield from (f"# HELP {name} {help_text}", f"# TYPE {name} {kind_of}")
                yield f"{name} {self._sum(_SLOT[short]):.0f}"
