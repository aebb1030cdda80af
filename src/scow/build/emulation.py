"""Why a command of another platform doesn't run here: the kernel has no interpreter for its programs."""

import asyncio

from scow.linux.binfmt import has_interpreter
from scow.oci.platform import Platform, host_platform, satisfies


async def why_not(platform: Platform) -> str:
    """What is missing to run commands for a platform, and how to get it; "" if it should work."""
    here = host_platform()
    if satisfies(platform, here) or (here.architecture, platform.architecture) == ("amd64", "386"):
        return ""
    if await asyncio.to_thread(has_interpreter, platform.architecture):
        return ""
    return (
        f"this machine ({here}) runs no programs for {platform}: no emulator for {platform.architecture} is registered "
        "in binfmt_misc (Debian and Ubuntu: apt install qemu-user-static)"
    )
