"""How much of a build cache stays when it is pruned."""

import pytest

from scow.engine.build_cache import bytes_to_keep
from scow.wire.build import CacheRoom


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (CacheRoom(), 0),  # nothing was said: all may go
        (CacheRoom(reserved=30), 30),
        (CacheRoom(most=60), 60),
        (CacheRoom(most=60, reserved=70), 70),
        (CacheRoom(free=10), 100),  # there is more free than that
        (CacheRoom(free=25), 95),
        (CacheRoom(free=500), 1),
        (CacheRoom(free=500, reserved=40), 40),
        (CacheRoom(free=25, most=60), 60),
    ],
)
def test_a_hundred_bytes_with_twenty_free(room: CacheRoom, kept: int) -> None:
    assert bytes_to_keep(room, 100, 20) == kept
