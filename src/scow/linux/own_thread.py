"""A thread of its own for work that changes what the thread is to the kernel: its namespaces, its credentials."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_own_thread(job: Callable[[], T]) -> T:
    """Run `job` in a thread that ends afterwards, since what the job changes never returns to a pool. Blocks."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(job())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="own-thread")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
