"""A real S3 server, Ceph's radosgw over one monitor and one OSD in memory, from Debian's packages, in a folder.

Nothing is started by systemd and no file of the system is read. `auth none` wants all connections in mode crc, or the
gateway waits for ever; deleted objects are given up after seconds, or the memory fills.
"""

import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from support.ports import free_port

PROGRAMS: Final = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
_MODES: Final = "\n".join(
    f"ms {kind} mode = crc" for kind in ("cluster", "service", "client", "mon cluster", "mon service", "mon client")
)
_CONFIG: Final = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
{modes}
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
crash dir = {folder}/crash
keyring = {folder}/keyring
mon data = {folder}/mon
mon cluster log file = {folder}/cluster.log
mon allow pool delete = true
mon data avail warn = 1
mon data avail crit = 1
osd data = {folder}/osd
osd objectstore = memstore
osd crush update on start = false
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
mon max pg per osd = 1000
mon osd full ratio = .99
[client.gateway]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable usage log = false
rgw gc obj min wait = 2
rgw gc processor period = 2
rgw gc processor max time = 2
rgw thread pool size = 32
rgw enable apis = s3
"""


def missing_programs() -> list[str]:
    """What of Ceph is not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Gateway:
    """A store with one user. `start`, then `stop`, which removes the folder."""

    access_key: Final = "ACCESSKEY0123456789A"
    secret_key: Final = "secretkey0123456789secretkey0123456789abc"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="scow-rgw-", dir="/var/tmp"))
        self.url = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Make a cluster and start it. Takes some 10 to 20 s."""
        folder = self.folder
        ports = [free_port() for _ in range(3)]
        fsid = str(uuid.uuid4())
        text = _CONFIG.format(fsid=fsid, mon=ports[0], mon_v1=ports[1], port=ports[2], folder=folder, modes=_MODES)
        (folder / "ceph.conf").write_text(text)
        (folder / "keyring").write_text("")
        self.url = f"http://127.0.0.1:{ports[2]}"
        addresses = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
        monmap = str(folder / "monmap")
        self._run("monmaptool", "--create", "--addv", "a", addresses, "--fsid", fsid, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._start("ceph-mon", "-i", "a", "-f")
        osd = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "30", "osd", "new", osd)
        (folder / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
        self._start("ceph-osd", "-i", "0", "-f")
        self._start("radosgw", "-n", "client.gateway", "-f")
        self._wait()
        self._run(
            *("radosgw-admin", "-n", "client.gateway", "user", "create", "--uid=tests", "--display-name=tests"),
            *(f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"),
        )

    def _arguments(self, program: str, *arguments: str) -> list[str]:
        if program == "monmaptool":
            return [program, *arguments]
        return [program, "-c", str(self.folder / "ceph.conf"), *arguments]

    def _start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as out:
            process = subprocess.Popen(self._arguments(program, *arguments), stdout=out, stderr=out, cwd=self.folder)
        self._processes.append(process)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self._arguments(program, *arguments),
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout[-1000:]} {done.stderr[-2000:]}"
        return done.stdout

    def _wait(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            with suppress(OSError):
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            for process in self._processes:
                assert process.poll() is None, f"{process.args}: {self._said()}"
            assert time.monotonic() < deadline, f"radosgw did not come up: {self._said()}"
            time.sleep(0.1)

    def _said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out"))

    def stop(self) -> None:
        """End it and remove its folder."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)  # nothing of it is kept
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
