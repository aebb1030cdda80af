"""overlayfs over layers: plain, or with the IDs of files shifted on their way through the mounts below it."""

import contextlib
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from scow.linux import fsids, mount

# As docker's overlay2 mounts: what is in `upper` is then complete in itself, so that it can be compared and committed,
# and moves between kernels. Each is passed explicitly, since distributions change the module's defaults.
OPTIONS: Final = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"), ("xino", "off"))


_KERNEL: Final = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


class Shift(NamedTuple):
    """A user namespace for mounts: where it is pinned, and its root's user and group on the machine."""

    namespace: Path
    uid: int
    gid: int


def overlay(
    target: Path,
    lowers: Sequence[Path],
    *,
    upper: Path | None = None,
    work: Path | None = None,
    label: str = "",
) -> None:
    """Mount overlayfs at `target`: `lowers` base first; read-only without `upper` and `work`.

    With `label` all files show it as their SELinux label. Raises MountFailed.
    """
    own = [] if upper is None or work is None else [("upperdir", upper), ("workdir", work)]
    with contextlib.ExitStack() as stack, mount.FsContext("overlay") as context:
        try:
            context.set("source", "overlay")  # what `df` and `mount` show of it
            for lower in reversed(lowers):
                context.set("lowerdir+", _short(lower, stack))
            for key, path in own:
                context.set(key, _short(path, stack))
            for key, value in (*OPTIONS, *_label(label)):
                context.set(key, value)
            context.mounted_at(target, 0 if own else mount.MOUNT_ATTR_RDONLY)
        except mount.MountFailed as error:
            # Linux before 6.5 doesn't know lowerdir+. There the old call is tried, which also words its own refusal.
            if error.errno != errno.EINVAL or _KERNEL >= (6, 5):
                raise mount.MountFailed(error.errno, "overlay", os.fspath(target), error.messages) from None
            overlay_by_options(target, lowers, upper=upper, work=work, label=label)


def overlay_by_options(
    target: Path,
    lowers: Sequence[Path],
    *,
    upper: Path | None = None,
    work: Path | None = None,
    label: str = "",
) -> None:
    """Do what `overlay` does by mount(2), whose options end at one page: descriptors keep 127 layers within it."""
    with contextlib.ExitStack() as stack:
        options = ["lowerdir=" + ":".join(_by_descriptor(lower, stack) for lower in reversed(lowers))]
        if upper is not None and work is not None:
            options += [f"upperdir={_by_descriptor(upper, stack)}", f"workdir={_by_descriptor(work, stack)}"]
        options += [f"{key}={value}" for key, value in OPTIONS]
        options += [f'{key}="{value}"' for key, value in _label(label)]  # it has a comma of its own
        mount.mount("overlay", target, "overlay", 0 if upper is not None else mount.MS_RDONLY, ",".join(options))


def shifted_overlay(
    target: Path, lowers: Sequence[Path], shift: Shift, own: Path | None = None, label: str = ""
) -> None:
    """Mount `lowers` and the directories upper and work of `own` with shifted IDs, and overlayfs on them.

    overlayfs itself can't shift. It makes files as whoever mounted it, so that has to be somebody who is mapped. What
    is below is hidden again, for overlayfs holds what it needs; until then it lies beside `target`. Raises MountFailed.
    """
    shown: list[Path] = []
    namespace = os.open(shift.namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for number, source in enumerate([*lowers, *filter(None, [own])]):
            shown.append(target.with_name(f"{target.name}.shifted-{number}"))
            shown[-1].mkdir(exist_ok=True)
            mount.bind_mapped(source, shown[-1], namespace)
        parts = {} if own is None else {"upper": shown[-1] / "upper", "work": shown[-1] / "work"}
        below = shown[: len(lowers)]
        fsids.as_owner(shift.uid, shift.gid, lambda: overlay(target, below, label=label, **parts))
    finally:
        os.close(namespace)
        for each in shown:
            mount.ensure_unmounted(each)
            with contextlib.suppress(OSError):
                each.rmdir()


def _label(label: str) -> list[tuple[str, str]]:
    return [("context", label)] if label else []


def _short(path: Path, stack: contextlib.ExitStack) -> str:
    text = os.fspath(path)
    return text if len(os.fsencode(text)) <= mount.STRING_LIMIT else _by_descriptor(path, stack)


def _by_descriptor(path: Path, stack: contextlib.ExitStack) -> str:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"
