"""What a container sees of layers with odd entries, whichever storage driver keeps them."""

import io
import struct
import tarfile
from collections.abc import Callable, Iterator

import pytest

from support.daemon import Daemon, Registry

from . import forms
from .test_pulls import fresh

CAP_NET_BIND = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # version 2, effective: cap_net_bind_service

LOOK = """
ls /gone /kept /opaque /below 2>&1
stat -c '%n %a %u:%g %h %F' /kept/suid /kept/one /kept/two /kept/pipe /kept/null
stat -c '%t:%T' /kept/null
cat /kept/two /opaque/new
"""


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.size = 0o644, 1_700_000_000, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def pack(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


LOWER = pack(
    entry("kept/", type=tarfile.DIRTYPE, mode=0o755),
    entry("kept/removed", b"x"),
    entry("gone/", type=tarfile.DIRTYPE, mode=0o755),
    entry("gone/file", b"x"),
    entry("opaque/", type=tarfile.DIRTYPE, mode=0o755),
    entry("opaque/old", b"x"),
    entry("below/", type=tarfile.DIRTYPE, mode=0o755),
    entry("below/stays", b"x"),
)
UPPER = pack(
    entry(".wh.gone"),
    entry("kept/.wh.removed"),
    entry("opaque/.wh..wh..opq"),
    entry("opaque/new", b"new\n"),
    entry("kept/one", b"shared\n"),
    entry("kept/two", type=tarfile.LNKTYPE, linkname="kept/one"),
    entry("kept/suid", b"x", mode=0o4755, uid=1000, gid=2000),
    entry("kept/pipe", type=tarfile.FIFOTYPE, mode=0o600),
    entry("kept/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    entry(
        "kept/cap",
        b"x",
        pax_headers={"SCHILY.xattr.security.capability": CAP_NET_BIND.decode("utf-8", "surrogateescape")},
    ),
)
SEEN = """\
ls: /gone: No such file or directory
/below:
stays

/kept:
cap
null
one
pipe
suid
two

/opaque:
new
/kept/suid 4755 1000:2000 1 regular file
/kept/one 644 0:0 2 regular file
/kept/two 644 0:0 2 regular file
/kept/pipe 600 0:0 1 fifo
/kept/null 666 0:0 1 character special file
1:3
shared
new
"""


@pytest.fixture(params=["erofs", "overlay2"])
def driver(request: pytest.FixtureRequest, make_engine: Callable[..., Daemon]) -> Iterator[Daemon]:
    return make_engine("--storage-driver", request.param)


def test_a_container_sees_what_its_layers_say(driver: Daemon, registry: Registry) -> None:
    name = fresh()
    forms.push(registry.address, name, "latest", forms.make([*forms.box(), LOWER, UPPER]))
    ref = f"{registry.address}/{name}"
    driver.docker("pull", "-q", ref)
    seen = driver.docker("run", "--rm", ref, "sh", "-c", LOOK).stdout
    assert seen.splitlines() == SEEN.splitlines()
    changed = "rm /kept/one && echo more >> /kept/two && cat /kept/two && ls /kept && rm -r /opaque && ls /opaque"
    done = driver.docker("run", "--rm", ref, "sh", "-c", changed, check=False)
    assert done.stdout.split() == ["shared", "more", "cap", "null", "pipe", "suid", "two"]
    assert driver.docker("run", "--rm", ref, "sh", "-c", LOOK).stdout == seen
