"""Processes: children on pidfds, and identities that can't be mistaken."""

import asyncio
import os
import signal
import subprocess

import pytest

from scow.linux.process import ProcessIdentity, identify, is_alive, send_signal, spawn


async def test_a_child_gives_its_status_to_all_who_wait() -> None:
    child = spawn(["/bin/sh", "-c", "exit 7"], environment={})
    assert await asyncio.gather(child.wait(), child.wait()) == [7, 7]
    assert await child.wait() == 7
    assert identify(child.pid) is None


async def test_a_signal_is_a_negative_status() -> None:
    child = spawn(["/bin/sleep", "60"], environment={})
    child.kill(signal.SIGTERM)
    assert await child.wait() == -signal.SIGTERM


async def test_only_named_descriptors_are_inherited() -> None:
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    child = spawn(
        ["/bin/sh", "-c", f"ls /proc/self/fd > /proc/self/fd/{theirs}"],
        environment={"PATH": "/bin"},
        pass_fds=(theirs,),
    )
    os.close(theirs)
    assert await child.wait() == 0
    found = set(os.read(ours, 4096).decode().split())
    os.close(ours)
    assert str(theirs) in found
    assert len(found) == 5  # three standard ones, the pipe, and the folder that ls reads


def test_a_missing_program_is_an_error_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["/nowhere"], environment={})


def test_a_later_process_with_the_same_pid_is_another_one() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        identity = identify(process.pid)
        assert identity is not None
        earlier = ProcessIdentity(identity.pid, identity.started - 1)
        assert is_alive(identity)
        assert not is_alive(earlier)
        assert not send_signal(earlier, signal.SIGKILL)
        assert process.poll() is None
        assert send_signal(identity, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(identity)  # a zombie is none
        assert not send_signal(identity, signal.SIGKILL)
    assert not send_signal(identity, signal.SIGKILL)
