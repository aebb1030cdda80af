"""The engine's end of an attachment, without a container at the other."""

import socket

from scow.runtime.attach import AttachStream


async def test_output_arrives_although_the_monitor_closed_with_input_unread() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    stream = AttachStream(ours, socket.socket.close)
    with theirs:
        await stream.write(b"never read")
        for message in (b"\x02one\n", b"\x03two\n", b"\x02three\n"):
            theirs.send(message)
    assert await stream.read() == [(1, b"one\n"), (2, b"two\n"), (1, b"three\n")]
    assert await stream.read() == []
    await stream.aclose()
