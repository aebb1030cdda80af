"""Directory trees as tests compare them: what can be seen of every file, and what GNU tar makes of an archive."""

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

Facts = dict[bytes, tuple[object, ...]]


def facts(root: Path, *, times: bool = True) -> Facts:
    """What can be seen of every file below `root`, by path."""
    found: Facts = {}
    inodes: dict[tuple[int, int], bytes] = {}
    todo = [b""]
    top = os.fsencode(root)
    while todo:
        path = todo.pop()
        full = os.path.join(top, path) if path else top
        info = os.lstat(full)
        kind = stat.S_IFMT(info.st_mode)
        content: object = None
        if kind == stat.S_IFDIR:
            todo += [os.path.join(path, name) for name in os.listdir(full)]
        elif kind == stat.S_IFREG:
            with open(full, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif kind == stat.S_IFLNK:
            content = os.readlink(full)
        names = os.listxattr(full, follow_symlinks=False)
        xattrs = {name: os.getxattr(full, name, follow_symlinks=False) for name in names}
        found[path] = (
            oct(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_size if kind != stat.S_IFDIR else None,
            info.st_mtime_ns if times else None,
            info.st_nlink,
            info.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
            content,
            xattrs,
        )
        if kind != stat.S_IFDIR:
            first = inodes.setdefault((info.st_dev, info.st_ino), path)
            found[path] += (min(first, path),) if info.st_nlink == 1 else ()
    return found


def by_gnu_tar(archive: Path, target: Path) -> Facts:
    """What GNU tar makes of the archive."""
    target.mkdir()
    target.chmod(0o755)
    os.utime(target, (0, 0))
    command = ["tar", "-xpf", str(archive), "-C", str(target), "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run([*command, "--same-owner", "--delay-directory-restore"], check=True, capture_output=True)
    try:
        return facts(target)
    finally:
        shutil.rmtree(target)


def make_tar(archive: Path, tree: Path, *options: str) -> None:
    subprocess.run(["tar", "-cf", archive, "-C", tree, *options, "."], check=True)


def one_of_everything(top: Path) -> Path:
    """Make a directory with one of everything."""
    (top / "dir/deep").mkdir(parents=True)
    (top / "dir/file").write_bytes(b"content")
    (top / "empty").touch()
    (top / "big").write_bytes(os.urandom(3_000_001))
    os.link(top / "dir/file", top / "dir/deep/link")
    os.symlink("../dir/file", top / "dir/short")
    os.symlink("t" * 447, top / "dir/inline")
    os.symlink("t" * 1500, top / "dir/long")
    os.symlink("/" + "s" * 4000, top / "dir/longest")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "chr", 0o620 | stat.S_IFCHR, os.makedev(5, 300))
    os.mknod(top / "blk", 0o660 | stat.S_IFBLK, os.makedev(259, 70000))
    (top / ("n" * 255)).write_text("long name")
    deep = top / "/".join(["d" * 100] * 5)[1:]
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("deep")
    (top / os.fsdecode(b"latin-\xe9\xff")).write_text("not UTF-8")
    (top / "-before dot").write_text("sorts before . and ..")
    (top / "suid").write_text("x")
    os.chown(top / "suid", 12345, 4_000_000_000)
    (top / "suid").chmod(0o6755)
    os.chown(top / "dir/short", 7, 8, follow_symlinks=False)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    os.setxattr(top / "dir/file", "user.note", b"\0binary\n=")
    os.setxattr(top / "dir", "user.empty", b"")
    os.setxattr(top / "suid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(top / "big", "trusted.thing", b"v" * 900)
    os.setxattr(top / "dir/long", "trusted.of.a.link", b"x", follow_symlinks=False)
    os.setxattr(top / "dir/inline", "trusted.of.a.link", b"x" * 101, follow_symlinks=False)
    for number in range(300):
        (top / "sticky" / f"{number:0{number % 60 + 1}}").write_text(str(number))
    with (top / "sparse").open("wb") as file:
        file.truncate(50_000_000)
        os.pwrite(file.fileno(), b"a" * 70_000, 4096 * 3)
        os.pwrite(file.fileno(), b"z" * 5000, 50_000_000 - 5000)
    with (top / "hole").open("wb") as file:
        file.truncate(10_000_001)
    os.utime(top / "empty", ns=(0, -1_500_000_000))
    os.utime(top / "dir", ns=(0, 1_234_567_890_123_456_789))
    os.utime(top, ns=(0, 1_000_000_000_000_000_001))
    return top
