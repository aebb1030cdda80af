"""Ports for servers that have to be told theirs, and can't look for a free one themselves."""

import os
import random
import socket

FIRST, LAST = 15_000, 30_000
"""Below those that kernels give to outgoing connections and to whoever asks for any: nobody gets one by chance."""


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody has; each process of a test run has its share of them."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = range(FIRST + worker, LAST, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    while True:
        port = random.choice(share)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
