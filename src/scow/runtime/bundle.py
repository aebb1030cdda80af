"""config.json: what a runtime is told about a container.

From docker's configuration (`ContainerConfig`, `HostConfig`) and what the engine has made ready (`BundleContext`), by
docker's rules. runtime-spec config.md and config-linux.md; moby 28 daemon/oci_linux.go.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.errors import InvalidArgument
from scow.linux import sysctl
from scow.linux.userns import Extent, IdMap
from scow.runtime import cdi, profile, selinux
from scow.runtime.apparmor import profile_for
from scow.runtime.bundle_mounts import BundleMount, rootfs_propagation, spec_mounts
from scow.runtime.capabilities import bounding_set, container_capabilities
from scow.runtime.devices import ALLOW_ALL, host_devices, mapped_devices, parse_rule
from scow.runtime.environment import environment
from scow.runtime.init import INIT_DESTINATION, find_init
from scow.runtime.limits import resources, rlimits
from scow.runtime.seccomp import UNCONFINED, seccomp_section
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig, Ulimit

__all__ = ["BundleContext", "BundleMount", "SecurityOptions", "make_spec", "security_options"]

SPEC_VERSION: Final = "1.0.2"
_PING_GROUPS: Final = "net/ipv4/ping_group_range"
_PORT_START: Final = "net/ipv4/ip_unprivileged_port_start"


class BundleContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a container's configuration leaves open and the engine has decided or made."""

    id: str
    rootfs: Path
    args: Sequence[str]  # entrypoint and command
    user: ProcessUser
    hostname: str = ""
    mounts: Sequence[BundleMount] = ()
    network_namespace: Path | None = None  # None: the host's
    cgroups_path: str
    pid_namespace: Path | None = None  # to be joined
    ipc_namespace: Path | None = None  # to be joined
    user_namespace: Path | None = None  # to be joined; None: the machine's
    ids: IdMap | None = None  # what its users and groups are
    shared_memory: Path | None = None  # /dev/shm, if it is shared with others: own or the joined container's
    default_ulimits: Sequence[Ulimit] = ()
    labels: selinux.Labels | None = None
    security: Sequence[str] = ()  # the engine's own security options: those of the container come after them
    init: bool = False
    edits: Sequence[cdi.Edits] = ()  # of devices that were asked for by name or capability
    init_path: str = ""  # of the program that `init` puts in front; "" looks for one


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`--security-opt`, read. `seccomp` is "", `unconfined`, `builtin` or a profile's JSON text."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""  # a profile's name
    labels: tuple[str, ...] = ()  # of SELinux: the values of all `label=`
    writable_cgroups: bool = False


def security_options(options: Sequence[str] | None) -> SecurityOptions:
    """Read security options. Raises InvalidArgument."""
    labels: list[str] = []
    no_new_privileges, seccomp, apparmor, writable_cgroups = False, "", "", False
    for option in options or ():
        # The old form had a colon; a profile's JSON holds both.
        marks = [at for at in (option.find("="), option.find(":")) if at >= 0]
        name, value = (option[: min(marks)], option[min(marks) + 1 :]) if marks else (option, None)
        if value is None and name != "no-new-privileges":
            raise InvalidArgument(f'invalid --security-opt 1: "{option}"')
        if name == "no-new-privileges":
            no_new_privileges = _boolean(option, value)
        elif name == "writable-cgroups":
            writable_cgroups = _boolean(option, value)
        elif name == "seccomp" and value:
            seccomp = value
        elif name == "apparmor" and value:
            apparmor = value
        elif name == "label" and value:
            labels.append(value)
        elif name not in ("label", "apparmor"):
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        no_new_privileges=no_new_privileges,
        seccomp=seccomp,
        apparmor=apparmor,
        labels=tuple(labels),
        writable_cgroups=writable_cgroups,
    )


def _boolean(option: str, value: str | None) -> bool:
    if value is None:
        return True
    lower = value.lower()
    if lower not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return lower in ("1", "t", "true")


def make_spec(config: ContainerConfig, host: HostConfig, context: BundleContext) -> bytes:
    """Make config.json's bytes. Raises InvalidArgument for what docker refuses, NotSupported for what can't be here."""
    security = security_options([*context.security, *(host.security_opt or ())])
    capabilities = container_capabilities(
        host.cap_add, host.cap_drop, privileged=host.privileged, available=bounding_set()
    )
    with_init = context.init and context.pid_namespace is None and host.pid_mode != "host"
    mounts = list(context.mounts)
    args = list(context.args)
    if with_init:
        program = find_init(context.init_path)
        mounts.append(BundleMount(source=str(program), destination=INIT_DESTINATION, type="bind", rw=False))
        args = [INIT_DESTINATION, "--", *args]
    spec: dict[str, Any] = {
        "ociVersion": SPEC_VERSION,
        "process": _process(config, host, context, args, capabilities, security),
        "root": {"path": str(context.rootfs), "readonly": host.readonly_rootfs},
        "mounts": spec_mounts(mounts, host, context.shared_memory, writable_cgroups=security.writable_cgroups),
        "linux": _linux(config, host, context, capabilities, security),
    }
    if host.uts_mode != "host" and context.hostname:
        spec["hostname"] = context.hostname
    if host.annotations:
        spec["annotations"] = host.annotations
    cdi.apply(context.edits, spec)
    return msgspec.json.encode(spec)


def _process(
    config: ContainerConfig,
    host: HostConfig,
    context: BundleContext,
    args: list[str],
    capabilities: list[str],
    security: SecurityOptions,
) -> dict[str, Any]:
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": user_section(context.user),
        "args": args,
        "env": environment(config.env or [], hostname=context.hostname, tty=config.tty, home=context.user.home),
        "cwd": config.working_dir or "/",
        "capabilities": capability_sets(capabilities),
        "noNewPrivileges": security.no_new_privileges,
    }
    confined = profile_for(security.apparmor, privileged=host.privileged)
    if confined:
        process["apparmorProfile"] = confined
    if context.labels is not None:
        process["selinuxLabel"] = context.labels.process
    if config.tty and len(host.console_size) == 2 and all(host.console_size):
        process["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    limits = rlimits(host.ulimits, context.default_ulimits)
    if limits:
        process["rlimits"] = limits
    # Only when asked for: even writing 0 fails where the engine's own score is higher and can't be lowered.
    if host.oom_score_adj:
        process["oomScoreAdj"] = host.oom_score_adj
    return process


def user_section(user: ProcessUser) -> dict[str, Any]:
    """process.user."""
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)}


def capability_sets(names: list[str]) -> dict[str, list[str]]:
    """process.capabilities: nothing is inheritable or ambient, so a user other than root gets none by exec."""
    return {"bounding": names, "effective": names, "permitted": names}


def _linux(
    config: ContainerConfig,
    host: HostConfig,
    context: BundleContext,
    capabilities: list[str],
    security: SecurityOptions,
) -> dict[str, Any]:
    limits = resources(host)
    devices, limits["devices"] = _devices(host)
    linux: dict[str, Any] = {
        "cgroupsPath": context.cgroups_path,
        "namespaces": _namespaces(host, context),
        "resources": limits,
        "devices": devices,
    }
    if context.ids is not None:
        # Told though the namespace is joined: runc 1.1 asks for them.
        linux["uidMappings"], linux["gidMappings"] = (_mappings(each) for each in context.ids)
    if context.labels is not None:
        linux["mountLabel"] = context.labels.files
    parameters = _sysctls(config, host, context)
    if parameters:
        linux["sysctl"] = parameters
    propagation = rootfs_propagation(context.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    if not (host.privileged and host.masked_paths is None):
        linux["maskedPaths"] = profile.MASKED_PATHS if host.masked_paths is None else host.masked_paths
    if not (host.privileged and host.readonly_paths is None):
        linux["readonlyPaths"] = profile.READONLY_PATHS if host.readonly_paths is None else host.readonly_paths
    # A profile that was asked for holds even with --privileged; the default doesn't.
    section = seccomp_section(
        UNCONFINED if host.privileged and not security.seccomp else security.seccomp, frozenset(capabilities)
    )
    if section is not None:
        linux["seccomp"] = section
    return linux


def _mappings(extents: Sequence[Extent]) -> list[dict[str, int]]:
    return [{"containerID": each.inside, "hostID": each.outside, "size": each.size} for each in extents]


def _namespaces(host: HostConfig, context: BundleContext) -> list[dict[str, str]]:
    found = [{"type": "mount"}]
    if context.user_namespace is not None:
        found.append({"type": "user", "path": str(context.user_namespace)})
    if context.network_namespace is not None:
        found.append({"type": "network", "path": str(context.network_namespace)})
    for kind, mode, joined in (
        ("pid", host.pid_mode, context.pid_namespace),
        ("ipc", host.ipc_mode, context.ipc_namespace),
        ("uts", host.uts_mode, None),
    ):
        if joined is not None:
            found.append({"type": kind, "path": str(joined)})
        elif mode != "host":
            found.append({"type": kind})
    if host.cgroupns_mode == "private":
        found.append({"type": "cgroup"})
    return found


def _devices(host: HostConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if host.privileged:
        # A mapping can only rename here; all else is there already.
        nodes = {node["path"]: node for node in host_devices()}
        for mapping in host.devices or []:
            for node in mapped_devices(mapping)[0]:
                nodes.setdefault(node["path"], node)
        return list(nodes.values()), [ALLOW_ALL]
    devices: list[dict[str, Any]] = []
    rules = list(profile.DEFAULT_DEVICE_RULES)
    for mapping in host.devices or []:
        found, allowed = mapped_devices(mapping)
        devices += found
        rules += allowed
    rules += [parse_rule(rule) for rule in host.device_cgroup_rules or []]
    return devices, rules


def _sysctls(config: ContainerConfig, host: HostConfig, context: BundleContext) -> dict[str, str]:
    found: dict[str, str] = {}
    if context.network_namespace is not None and not host.network_mode.startswith("container:"):
        # Ports below 1024 and ping need no capability in a namespace of one's own.
        for name, value in ((_PORT_START, "0"), (_PING_GROUPS, "0 2147483647")):
            # Groups that a user namespace doesn't map can't be named in it: as with docker, ping is for its root there.
            if sysctl.exists(name) and (name != _PING_GROUPS or context.user_namespace is None):
                found[name.replace("/", ".")] = value
    if config.domainname and host.uts_mode != "host":
        found["kernel.domainname"] = config.domainname
    return {**found, **(host.sysctls or {})}
