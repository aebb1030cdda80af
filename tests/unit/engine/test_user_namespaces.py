"""Which IDs `userns-remap` gives to containers: /etc/subuid and /etc/subgid as dockerd reads them."""

from pathlib import Path

import pytest

from scow.engine.config import InvalidConfig
from scow.engine.user_namespaces import check_user_namespace, find_ids
from scow.errors import InvalidArgument
from scow.linux.userns import Extent, IdMap, outside, parse_map, text_of
from scow.wire.host_config import HostConfig


def ids(tmp_path: Path, remap: str, users: str, groups: str = "") -> IdMap:
    (tmp_path / "subuid").write_bytes(users.encode("latin-1"))
    (tmp_path / "subgid").write_bytes((groups or users).encode("latin-1"))
    return find_ids(remap, tmp_path / "subuid", tmp_path / "subgid")


def test_default_is_the_user_dockremap(tmp_path: Path) -> None:
    found = ids(tmp_path, "default", "jos\xe9:100000:65536\ndockremap:300000:1000\n")
    assert found == IdMap((Extent(0, 300000, 1000),), (Extent(0, 300000, 1000),))


def test_default_without_entries_takes_ids_that_nobody_has(tmp_path: Path) -> None:
    found = ids(tmp_path, "default", "me:100000:65536\n", "other:200000:70000\n")
    assert found == IdMap((Extent(0, 270000, 65536),), (Extent(0, 270000, 65536),))
    none = tmp_path / "none"
    assert find_ids("default", none, none).users == (Extent(0, 100000, 65536),)


def test_several_entries_of_a_user_follow_each_other(tmp_path: Path) -> None:
    found = ids(tmp_path, "root", "root:100000:10\nother:1:1\n# a remark\n0:200000:5\n")
    assert found.users == (Extent(0, 100000, 10), Extent(10, 200000, 5))
    assert (outside(found.users, 3), outside(found.users, 12)) == (100003, 200002)
    with pytest.raises(ValueError, match="15 is not mapped"):
        outside(found.users, 15)


def test_a_group_may_be_another_name(tmp_path: Path) -> None:
    found = ids(tmp_path, "root:daemon", "root:100000:10\n", "daemon:500000:10\n")
    assert found.root == (100000, 500000)


@pytest.mark.parametrize(
    ("remap", "users", "words"),
    [
        ("no-such-user", "", "there is no user 'no-such-user'"),
        ("root", "other:1:1\n", "has no entry for 'root': add one, for instance root:100000:65536"),
        ("root", "root:x:1\nroot:1\nroot:5:0\n", "has no entry"),
    ],
)
def test_users_without_ids_are_refused(tmp_path: Path, remap: str, users: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        ids(tmp_path, remap, users)


def test_maps_are_written_as_the_kernel_reads_them() -> None:
    extents = (Extent(0, 100000, 10), Extent(10, 200000, 5))
    assert parse_map(text_of(extents)) == extents
    assert parse_map("         0     100000      65536\n") == (Extent(0, 100000, 65536),)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(privileged=True), "privileged mode is incompatible with user namespaces"),
        (HostConfig(network_mode="host"), "cannot share the host's network namespace"),
        (HostConfig(pid_mode="host"), "cannot share the host PID namespace"),
    ],
)
def test_what_a_user_namespace_rules_out_needs_the_machines(host: HostConfig, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_user_namespace(host)
    opted_out = HostConfig(
        privileged=host.privileged, network_mode=host.network_mode, pid_mode=host.pid_mode, userns_mode="host"
    )
    check_user_namespace(opted_out)
