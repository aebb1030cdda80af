"""A root of real software from Debian packages, for applications that tests bring up.

The packages come by the machine's own apt configuration, with what they depend on, and are unpacked without their
maintainer scripts: the programs run from where they are.
"""

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "nginx-light",
    "redis-server",
    "postgresql",
    "python3-minimal",
    "python3-psycopg2",
    "dash",
    "coreutils",
)
# What only maintainer scripts, compilation of queries or administrators want of the above: most of the bytes.
_LEFT_OUT: Final = re.compile(
    r"(lib)?(perl|llvm|systemd|udev|z3-|edit2|pam-|cryptsetup|device-mapper|json-perl|apt-pkg).*|adduser|apt|debconf.*|"
    r"ucf|passwd|procps|lsb-base|init-.*|sysvinit.*|logsave|ssl-cert|sensible-utils|iproute2|python3|dpkg|gpgv.*|.*-perl|"
    r"debian-archive-keyring|mount|util-linux.*|login|locales.*|postgresql-client-common|cdebconf|gcc-12-base"
)


class NoPackages(Exception):
    """No package mirror answers."""


def closure(packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """The packages with all that they need. Raises NoPackages."""
    asked = (
        *("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"),
        *("--no-replaces", "--no-enhances", *packages),
    )
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    names = {line for line in done.stdout.splitlines() if line and line[0].isalnum() and ":" not in line}
    if done.returncode or not names:
        raise NoPackages(f"apt knows no {', '.join(packages)}: {done.stderr.strip()[-200:]}")
    return sorted(name for name in names if not _LEFT_OUT.fullmatch(name))


def root_layer(folder: Path, packages: tuple[str, ...] = PACKAGES) -> bytes:
    """A layer's tar with the packages and an account for the database. Raises NoPackages."""
    done = subprocess.run(
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *closure(packages)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    files = sorted(folder.glob("*.deb"))
    if done.returncode or not files:
        raise NoPackages(f"no package mirror answers: {done.stderr.strip()[-300:]}")
    root = folder / "root"
    for path in (
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "tmp",
        "run",
        "data",
        "var/log/nginx",
        "var/lib/nginx",
    ):
        (root / path).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for file in files:
        packed = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE)
        left_out = ("--exclude=./usr/share/doc", "--exclude=./usr/share/man", "--exclude=./usr/share/locale")
        unpack = ("tar", "-x", "--keep-directory-symlink", "-C", str(root), *left_out)
        subprocess.run(unpack, stdin=packed.stdout, check=True)
        assert packed.stdout is not None
        packed.stdout.close()
        assert packed.wait() == 0
        file.unlink()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/data:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:70:\n")
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")
    os.chown(root / "data", 70, 70)
    (root / "tmp").chmod(0o1777)
    (root / "run").chmod(0o1777)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(root.iterdir()):
            tar.add(entry, entry.name)
    return stream.getvalue()
