"""How many requests one client address may send: a bucket of tokens for each."""

import time
from collections import OrderedDict
from typing import Final

from scow.registry.errors import TooManyRequests
from scow.registry.settings import Limits

ADDRESSES_LIMIT: Final = 50_000


class Rates:
    """The buckets of one worker."""

    def __init__(self, limits: Limits) -> None:
        self._rate = limits.requests_per_s
        self._burst = float(max(limits.burst, 1))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when (monotonic)

    def take(self, address: str) -> None:
        """Count a request. Raises TooManyRequests with when to come again."""
        if not self._rate:
            return
        now = time.monotonic()
        left, then = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        if left < 1:
            self._buckets[address] = (left, now)
            raise TooManyRequests((1 - left) / self._rate)
        self._buckets[address] = (left - 1, now)
        if len(self._buckets) > ADDRESSES_LIMIT:
            self._buckets.popitem(last=False)
