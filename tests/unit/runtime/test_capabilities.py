"""What --cap-add and --cap-drop come to."""

import pytest

from scow.errors import InvalidArgument, NotSupported
from scow.runtime.capabilities import NAMES, container_capabilities
from scow.runtime.profile import DEFAULT_CAPABILITIES

EVERYTHING = frozenset(NAMES)
DEFAULT = set(DEFAULT_CAPABILITIES)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (None, None, DEFAULT),
        ([], [], DEFAULT),
        (["NET_ADMIN"], None, DEFAULT | {"CAP_NET_ADMIN"}),
        (["cap_net_admin"], None, DEFAULT | {"CAP_NET_ADMIN"}),
        (None, ["CHOWN"], DEFAULT - {"CAP_CHOWN"}),
        (["ALL"], None, set(NAMES)),
        (["all"], ["CAP_SYS_ADMIN"], set(NAMES) - {"CAP_SYS_ADMIN"}),
        (None, ["ALL"], set()),
        (["KILL", "CHOWN"], ["ALL"], {"CAP_KILL", "CAP_CHOWN"}),
    ],
)
def test_the_set(add: list[str] | None, drop: list[str] | None, expected: set[str]) -> None:
    found = container_capabilities(add, drop, privileged=False, available=EVERYTHING)
    assert set(found) == expected
    assert found == sorted(found, key=NAMES.index)


def test_privileged_gets_all_that_there_is() -> None:
    available = EVERYTHING - {"CAP_SYS_RESOURCE"}
    assert set(container_capabilities(None, ["ALL"], privileged=True, available=available)) == available
    assert set(container_capabilities(["ALL"], None, privileged=False, available=available)) == available


def test_what_the_engine_lacks_can_not_be_added() -> None:
    available = EVERYTHING - {"CAP_SYS_RESOURCE", "CAP_MKNOD"}
    with pytest.raises(NotSupported, match="cannot add capability CAP_SYS_RESOURCE"):
        container_capabilities(["SYS_RESOURCE"], None, privileged=False, available=available)
    assert "CAP_MKNOD" not in container_capabilities(None, None, privileged=False, available=available)


def test_unknown_names() -> None:
    with pytest.raises(InvalidArgument, match='invalid CapDrop: unknown capability: "CAP_NOPE"'):
        container_capabilities(None, ["nope"], privileged=False, available=EVERYTHING)
