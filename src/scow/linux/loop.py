"""Loop devices: a file as a block device, read-only, gone with its last user. loop(4); needs Linux 5.8."""

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CONTROL: Final = "/dev/loop-control"
SECTOR: Final = 512  # bytes; what a file has beyond its last full sector the device doesn't show

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LO_FLAGS_READ_ONLY: Final = 1
_LO_FLAGS_AUTOCLEAR: Final = 4
_MAJOR: Final = 7
_ATTEMPTS: Final = 64


class _LoopInfo(ctypes.Structure):
    _fields_ = (
        ("device", ctypes.c_uint64),
        ("inode", ctypes.c_uint64),
        ("rdevice", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("sizelimit", ctypes.c_uint64),
        ("number", ctypes.c_uint32),
        ("encrypt_type", ctypes.c_uint32),
        ("encrypt_key_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("file_name", ctypes.c_char * 64),
        ("crypt_name", ctypes.c_char * 64),
        ("encrypt_key", ctypes.c_char * 32),
        ("init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo),
        ("reserved", ctypes.c_uint64 * 8),
    )


@contextlib.contextmanager
def attached(path: Path) -> Iterator[str]:
    """Show the file as a read-only device; yield the device's path. Raises OSError.

    The kernel detaches it when nobody has it open any more: what mounts it meanwhile keeps it, until the unmount.
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, name = _attach(backing, path)
    finally:
        os.close(backing)
    try:
        yield name
    finally:
        os.close(device)


def _attach(backing: int, path: Path) -> tuple[int, str]:
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
    info = _LoopInfo(flags=flags, file_name=os.fsencode(path)[-63:])
    config = bytearray(_LoopConfig(fd=backing, block_size=SECTOR, info=info))
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            name = f"/dev/loop{number}"
            if not os.path.exists(name):  # a /dev without devtmpfs, as in a container
                with contextlib.suppress(FileExistsError):
                    os.mknod(name, 0o600 | 0o060000, os.makedev(_MAJOR, number))
            device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else was quicker
                    raise
            else:
                return device, name
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")
