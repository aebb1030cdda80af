"""How many connections wait at a listening unix socket."""

import errno
import socket
from pathlib import Path

import pytest

from scow.linux.unix_diag import waiting_connections


def test_connections_are_counted_until_they_are_accepted(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second,
    ):
        for each, path in ((listener, here), (other, elsewhere)):
            each.bind(str(path))
            each.listen()
        counts = [waiting_connections(here)]
        for client in (first, second):
            client.connect(str(here))
            counts.append(waiting_connections(here))
        for _ in range(2):
            listener.accept()[0].close()
            counts.append(waiting_connections(here))
        assert counts == [0, 1, 2, 1, 0]
        assert waiting_connections(elsewhere) == 0


def test_where_nobody_listens_nobody_waits(tmp_path: Path) -> None:
    path = tmp_path / "left"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
    assert waiting_connections(path) == 0
    with pytest.raises(FileNotFoundError) as failure:
        waiting_connections(tmp_path / "nothing")
    assert failure.value.errno == errno.ENOENT
