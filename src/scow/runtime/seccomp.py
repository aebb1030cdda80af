"""Seccomp: the distribution's default profile, or one that a user gives, resolved for this machine and container.

A profile in docker's format says for each rule on which architectures, kernels and with which capabilities it holds;
the runtime wants the plain list (runtime-spec config-linux.md#seccomp). Format and rules: moby/profiles/seccomp.
"""

import os
import platform
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.errors import InvalidArgument, NotSupported

DEFAULT_PROFILES: Final = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
UNCONFINED: Final = "unconfined"
BUILTIN: Final = "builtin"

# Go's names of architectures, which profiles use in rules, and libseccomp's, which runtimes want.
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
}


class InvalidProfile(InvalidArgument):
    """A seccomp profile that can't be read."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Decoding seccomp profile failed: {reason}")


class NoDefaultProfile(NotSupported):
    """The machine lacks the default profile; running without one unasked would be less than docker gives."""

    def __init__(self) -> None:
        super().__init__(
            f"no default seccomp profile at {DEFAULT_PROFILES[-1]}: install the package containers-common "
            "(golang-github-containers-common), or run with --security-opt seccomp=unconfined"
        )


class _Filter(msgspec.Struct, rename={"min_kernel": "minKernel"}):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str = ""


class _Rule(msgspec.Struct, rename={"errno_ret": "errnoRet"}):
    action: str
    names: list[str] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: list[dict[str, Any]] | None = None
    includes: _Filter | None = None
    excludes: _Filter | None = None


class _ArchMap(msgspec.Struct, rename={"sub_architectures": "subArchitectures"}):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_ArchMap] | None = None
    flags: list[str] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: list[_Rule] | None = None


class Machine(msgspec.Struct, frozen=True):
    """What rules may depend on."""

    architecture: str  # as uname says
    kernel: tuple[int, int]


@cache
def this_machine() -> Machine:
    """The machine we run on."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    kernel = (int(release[1]), int(release[2])) if release else (0, 0)
    return Machine(platform.machine(), kernel)


def default_profile_path() -> Path | None:
    """The profile that the distribution, or the machine's owner, put in place."""
    return next((path for path in DEFAULT_PROFILES if path.is_file()), None)


def seccomp_section(profile: str, capabilities: frozenset[str]) -> msgspec.Raw | None:
    """linux.seccomp for a container: `profile` is "" or `builtin`, `unconfined`, or a profile's JSON text.

    Raises InvalidProfile, NoDefaultProfile.
    """
    if profile == UNCONFINED:
        return None
    if profile in ("", BUILTIN):
        path = default_profile_path()
        if path is None:
            raise NoDefaultProfile
        return _default_section(path, path.stat().st_mtime_ns, capabilities)
    return _section_of(profile, capabilities)


@lru_cache(maxsize=16)
def _section_of(profile: str, capabilities: frozenset[str]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(resolve(profile.encode(), capabilities, this_machine())))


@lru_cache(maxsize=64)
def _default_section(path: Path, changed: int, capabilities: frozenset[str]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(resolve(path.read_bytes(), capabilities, this_machine())))


def resolve(text: bytes, capabilities: frozenset[str], machine: Machine) -> dict[str, Any]:
    """Resolve a profile. Raises InvalidProfile."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except msgspec.MsgspecError as error:
        raise InvalidProfile(str(error)) from error
    if profile.architectures and profile.arch_map:
        raise InvalidProfile(
            "both 'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or "
            "'archMap'"
        )
    go_name, native = _ARCHITECTURES.get(machine.architecture, (machine.architecture, ""))
    architectures = list(profile.architectures or [])
    for entry in profile.arch_map or []:
        if entry.architecture == native:
            architectures = [entry.architecture, *(entry.sub_architectures or [])]
    section: dict[str, Any] = {"defaultAction": profile.default_action, "architectures": architectures}
    for name, value in (
        ("defaultErrnoRet", profile.default_errno_ret),
        ("flags", profile.flags),
        ("listenerPath", profile.listener_path),
        ("listenerMetadata", profile.listener_metadata),
    ):
        if value is not None:
            section[name] = value
    section["syscalls"] = [
        _resolved(rule) for rule in profile.syscalls or [] if _applies(rule, go_name, capabilities, machine.kernel)
    ]
    return section


def _resolved(rule: _Rule) -> dict[str, Any]:
    if rule.name and rule.names:
        raise InvalidProfile(
            "both 'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'"
        )
    names = rule.names or ([rule.name] if rule.name else [])
    resolved: dict[str, Any] = {"names": names, "action": rule.action}
    if rule.errno_ret is not None:
        resolved["errnoRet"] = rule.errno_ret
    if rule.args:
        resolved["args"] = rule.args
    return resolved


def _applies(rule: _Rule, architecture: str, capabilities: frozenset[str], kernel: tuple[int, int]) -> bool:
    excludes = rule.excludes
    if excludes is not None:
        if architecture in (excludes.arches or ()) or capabilities.intersection(excludes.caps or ()):
            return False
        if excludes.min_kernel and kernel >= _version(excludes.min_kernel):
            return False
    includes = rule.includes
    if includes is not None:
        if includes.arches and architecture not in includes.arches:
            return False
        if not capabilities.issuperset(includes.caps or ()):
            return False
        if includes.min_kernel and kernel < _version(includes.min_kernel):
            return False
    return True


def _version(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if match is None:
        raise InvalidProfile(f"invalid kernel version: {text!r}")
    return int(match[1]), int(match[2])
