"""Which OCI runtime the engine uses: the first that passes a self-check on a trivial container.

The check's bundle has an empty root, so no file of the machine is needed: the command is one that doesn't exist. A
runtime that gets as far as not finding it has made namespaces, groups and mounts and loaded the seccomp profile; one
that can't work here fails earlier, and in other words.
"""

import asyncio
import logging
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import NotSupported, ScowError
from scow.runtime import controllers
from scow.runtime.bundle import BundleContext, make_spec
from scow.runtime.failures import CommandNotFound
from scow.runtime.monitor import Monitors
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.room import NoRoom, needing_room
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig

log = logging.getLogger(__name__)

KNOWN: Final = ("crun", "runc")
_CHECKS: Final = "check-"  # how folders of self-checks begin
MISSING_COMMAND: Final = "/.scow-self-check"


class NoRuntime(NotSupported):
    """No runtime works on this machine."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "none is installed"
        super().__init__(f"no OCI runtime works on this machine ({said}): install crun or runc")
        self.reasons = dict(reasons)


def find_runtimes(configured: Mapping[str, Sequence[str]]) -> dict[str, OciRuntime]:
    """The runtimes that are installed: those known by name and those configured, which win.

    `configured` has a command for each name: a program, looked for in the PATH, and its arguments.
    """
    found = {}
    for name in KNOWN:
        path = shutil.which(name)
        if path is not None:
            found[name] = OciRuntime(name=name, path=Path(path))
    for name, (program, *arguments) in configured.items():
        path = shutil.which(program)
        if path is not None:
            found[name] = OciRuntime(name=name, path=Path(path), arguments=tuple(arguments))
        else:
            log.warning("runtime %s can't be used: there is no program %s", name, program)
    return found


async def choose_runtimes(
    preferred: str, configured: Mapping[str, Sequence[str]], exec_root: Path
) -> tuple[dict[str, OciRuntime], str]:
    """Return all installed runtimes by name, and the name of the default: `preferred` (if not ""), crun or runc.

    Controllers that keep crun from working are mounted first (see `controllers`). Raises NoRuntime if
    none passes, and NoRoom if none can be tried; a preferred one that doesn't pass is not replaced.
    """
    runtimes = find_runtimes(configured)
    if any(runtime.path.name == "crun" for runtime in runtimes.values()):
        await asyncio.to_thread(controllers.settle)
    order = [preferred] if preferred else [name for name in KNOWN if name in runtimes]
    reasons: dict[str, str] = {}
    for name in order:
        runtime = runtimes.get(name)
        if runtime is None:
            reasons[name] = "it is not installed"
            continue
        problem = await self_check(runtime, exec_root)
        if problem is None:
            return runtimes, name
        reasons[name] = problem
        log.warning("runtime %s does not work here: %s", name, problem)
    raise NoRuntime(reasons)


async def self_check(runtime: OciRuntime, exec_root: Path) -> str | None:
    """Have a runtime make a container; None if it can, else why not. Raises NoRoom, of which no runtime is to blame."""
    try:
        with needing_room(exec_root):
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_CHECKS, dir=_existing(exec_root)))
            try:
                return await _check(runtime, folder)
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, True)
    except NoRoom as error:
        raise NoRoom(exec_root) from error
    except (ScowError, OSError, msgspec.MsgspecError) as error:
        return str(error)


async def _check(runtime: OciRuntime, folder: Path) -> str | None:
    id = f"scow-check-{secrets.token_hex(8)}"
    monitors = Monitors(folder, runtime, lambda ended: None)
    try:
        rootfs = folder / "rootfs"
        await asyncio.to_thread(rootfs.mkdir)
        spec = make_spec(
            ContainerConfig(),
            HostConfig(),
            BundleContext(
                id=id,
                rootfs=rootfs,
                args=(MISSING_COMMAND,),
                user=ProcessUser(),
                hostname="check",
                cgroups_path=f"/{id}",
            ),
        )
        monitors.open()
        await monitors.create(id, spec, terminal=False, open_stdin=False)
    except CommandNotFound:
        return None
    else:
        await monitors.delete(id)
        return f"it created a container for {MISSING_COMMAND}, which doesn't exist"
    finally:
        await monitors.aclose()


def clear_checks(exec_root: Path) -> None:
    """Remove what self-checks have left that were killed with their engine. Blocks; none may be going on."""
    for folder in exec_root.glob(f"{_CHECKS}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _existing(folder: Path) -> Path:
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    return folder
