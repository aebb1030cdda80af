"""User namespaces: pinned, found again, and owners of network namespaces; mounts that shift IDs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.linux import fsids, mount, netns
from scow.linux.userns import Extent, IdMap, UserNamespace

IDS = IdMap((Extent(0, 700000, 1000),), (Extent(0, 800000, 1000),))


@pytest.fixture
def users(tmp_path: Path) -> Iterator[UserNamespace]:
    found = UserNamespace.open(tmp_path / "userns", IDS)
    yield found
    found.remove()


def name_of(path: Path) -> int:
    return path.stat().st_ino


def root_of(namespace: UserNamespace) -> int:
    """The user of the machine that is root in a network namespace of it."""
    network = namespace.new_network()
    try:
        return netns.inside(network, lambda: Path("/proc/sys/net/ipv4/ip_forward").stat().st_uid)
    finally:
        os.close(network)


def test_a_pinned_namespace_is_found_again_if_its_ids_are_the_same(users: UserNamespace) -> None:
    first = name_of(users.path)
    users.close()
    again = UserNamespace.open(users.path, IDS)
    assert name_of(users.path) == first
    again.close()
    other = UserNamespace.open(users.path, IdMap((Extent(0, 900000, 5),), (Extent(0, 900000, 5),)))
    try:
        assert root_of(other) == 900000
    finally:
        other.remove()
    assert not netns.is_pinned(users.path)


def test_network_namespaces_belong_to_it(users: UserNamespace) -> None:
    one, two = users.new_network(), users.new_network()
    try:
        assert os.fstat(one).st_ino != os.fstat(two).st_ino
        assert root_of(users) == 700000
    finally:
        os.close(one)
        os.close(two)


def test_mounts_shift_ids_and_files_are_made_by_whom_they_are_mapped_to(users: UserNamespace, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 5, 6)
    namespace = os.open(users.path, os.O_RDONLY)
    try:
        mount.bind_mapped(source, target, namespace)
    finally:
        os.close(namespace)
    try:
        shown = (target / "file").stat()
        assert (shown.st_uid, shown.st_gid) == (700005, 800006)
        with pytest.raises(OSError, match="Value too large"):
            (target / "new").touch()  # by root of the machine, who is nobody there
        fsids.as_owner(700000, 800000, (target / "new").touch)
        made = (source / "new").stat()
        assert (made.st_uid, made.st_gid) == (0, 0)
    finally:
        mount.unmount(target)
