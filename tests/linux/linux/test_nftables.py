"""Scripts for nftables, and what becomes of them when the library's process dies."""

import os
import secrets
import signal
import socket
from collections.abc import Iterator

import pytest

from scow.linux import nftables_child
from scow.linux.nftables import Nftables, NftablesCrashed, NftablesFailed

pytestmark = pytest.mark.linux


@pytest.fixture
def nft() -> Iterator[Nftables]:
    nft = Nftables()
    yield nft
    nft.close()


@pytest.fixture
def table(nft: Nftables) -> Iterator[str]:
    name = f"inet scow_t_{secrets.token_hex(4)}"
    nft.run(f"add table {name}")
    yield name
    nft.run(f"delete table {name}")


def test_a_script_is_run_whole_or_not_at_all(nft: Nftables, table: str) -> None:
    assert nft.run(f"add chain {table} first") == ""
    with pytest.raises(NftablesFailed, match="No such file or directory") as refusal:
        nft.run(f"add chain {table} second\nadd rule {table} third accept")
    assert refusal.value.script.endswith("third accept")
    assert "second" not in nft.run(f"list table {table}")
    assert '"name": "first"' in nft.run(f"list table {table}", json=True)


def test_long_scripts_and_long_answers_pass(nft: Nftables, table: str) -> None:
    nft.run("".join(f"add chain {table} c{number}\n" for number in range(2000)))
    assert nft.run(f"list table {table}").count("chain c") == 2000


def test_a_process_that_died_in_between_is_replaced(nft: Nftables, table: str) -> None:
    dead = nft.pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    assert f"table {table}" in nft.run(f"list table {table}")
    assert nft.pid not in (None, dead)


def test_a_process_that_dies_over_a_script_is_told_and_replaced(
    nft: Nftables, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_and_kill(connection: socket.socket, kind: int, data: bytes) -> None:
        assert nft.pid is not None
        os.kill(nft.pid, signal.SIGSTOP)
        send(connection, kind, data)
        os.kill(nft.pid, signal.SIGKILL)

    send = nftables_child.send
    with monkeypatch.context() as patched:
        patched.setattr(nftables_child, "send", send_and_kill)
        with pytest.raises(NftablesCrashed, match=r"the process that runs it ended \(signal 9\)"):
            nft.run(f"list table {table}")
    assert f"table {table}" in nft.run(f"list table {table}")


def test_nothing_goes_on_after_close(nft: Nftables) -> None:
    nft.run("list tables")
    pid = nft.pid
    nft.close()
    nft.close()
    assert nft.pid is None
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(NftablesFailed, match="closed"):
        nft.run("list tables")
