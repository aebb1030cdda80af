"""What an image has at a volume's mount point goes into the volume while it is empty, as docker does."""

import os
import subprocess
from pathlib import Path

from scow.errors import Internal
from scow.linux.mount import open_in_root


def has_content(rootfs: Path, destination: str) -> bool:
    """Whether the image has a directory at `destination`. Blocks."""
    try:
        os.close(open_in_root(rootfs, destination, os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def copy_up(rootfs: Path, destination: str, volume: Path, *, name: str) -> None:
    """Copy content, ownership, modes and attributes of `destination` in the image into an empty volume. Blocks.

    The path is resolved inside the root file system only, whatever links it has. Raises Internal if copying fails.
    """
    if any(os.scandir(volume)):
        return
    try:
        source = open_in_root(rootfs, destination)
    except OSError:
        return  # the image has nothing there
    try:
        path = f"/proc/self/fd/{source}"
        if not os.path.isdir(path):
            return
        info = os.fstat(source)
        if any(os.scandir(path)):
            # GNU cp keeps hard links, holes, devices and extended attributes, which a loop of ours would have to learn.
            done = subprocess.run(
                ["cp", "-a", "--reflink=auto", f"{path}/.", str(volume)],
                pass_fds=(source,),
                capture_output=True,
                check=False,
            )
            if done.returncode != 0:
                reason = done.stderr.decode(errors="replace").strip()
                raise Internal(f"cannot copy {destination} of the image into volume {name}: {reason}")
        os.chown(volume, info.st_uid, info.st_gid)
        os.chmod(volume, info.st_mode & 0o7777)
    finally:
        os.close(source)
