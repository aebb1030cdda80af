"""How many requests one client may send: a bucket of tokens for each address, shared by all workers of a server.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm).
"""

import ipaddress
import time

from scow.registry.errors import TooManyRequests
from scow.registry.settings import Limits
from scow.registry.shared import SharedTable


class Rates:
    """The limit of requests for each address."""

    def __init__(self, limits: Limits, buckets: SharedTable | None = None) -> None:
        """`buckets` are those of all workers; without them these are this process's own."""
        self._interval_s = 1 / limits.requests_per_s if limits.requests_per_s > 0 else 0.0
        self._burst = float(max(limits.burst, 1))
        self._buckets = buckets or (SharedTable() if self._interval_s else None)

    def take(self, address: str) -> None:
        """Count a request. Raises TooManyRequests with when to come again."""
        if self._buckets is None or not self._interval_s:
            return
        now, missing_s = time.monotonic(), 0.0

        def count(full_at: float, _: float) -> tuple[float, float]:
            nonlocal missing_s
            full_at = max(full_at, now)
            missing_s = full_at - now - (self._burst - 1) * self._interval_s
            return full_at if missing_s > 0 else full_at + self._interval_s, 0.0

        self._buckets.update(client_of(address), count)
        if missing_s > 0:
            raise TooManyRequests(missing_s)


def client_of(address: str) -> bytes:
    """Who an address belongs to: one client has a whole /64 of IPv6."""
    if ":" not in address:
        return address.encode()
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address.encode()
    return str(found.ipv4_mapped).encode() if found.ipv4_mapped else found.packed[:8]
