"""From the flags of `run` and `create` to the body of the create request."""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.mounts import parse_tmpfs, parse_volumes, split_csv
from scow.cli.ports import parse_expose, parse_publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from scow.cli.flags import Options


def read_lines(path: str, kind: str) -> list[str]:
    """Read the lines of an env or label file, without comments. Raises CliError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}", 125) from None
    except UnicodeDecodeError:
        raise CliError(f"invalid {kind} file ({path}): invalid utf8 bytes", 125) from None
    lines = [line.lstrip() for line in text.split("\n")]
    return [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#")]


def read_env(files: Sequence[str], texts: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Merge env files and `--env`; a name without a value takes ours, or is left out of a file."""
    out: list[str] = []
    for path in files:
        for line in read_lines(path, "env"):
            name, equals, _ = line.partition("=")
            if " " in name.strip() or "\t" in name or not name:
                what = f"variable '{name}' contains whitespaces" if name else f"no variable name on line '{line}'"
                raise CliError(f"invalid env file ({path}): {what}", 125)
            if equals:
                out.append(line)
            elif name in environment:
                out.append(f"{name}={environment[name]}")
    for text in texts:
        if "=" in text:
            out.append(text)
        else:
            out.append(f"{text}={environment[text]}" if text in environment else text)
    return out


def read_labels(files: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    lines = [line for path in files for line in read_lines(path, "label")]
    return {name: value for name, _, value in (text.partition("=") for text in [*lines, *texts])}


def pairs(texts: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def restart_policy(text: str) -> dict[str, Any]:
    """Understand `--restart`."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise CliError("invalid restart policy format: no policy provided before colon", 125)
    if colon and not count.isdigit():
        raise CliError("invalid restart policy format: maximum retry count must be an integer", 125)
    return {"Name": name or "no", "MaximumRetryCount": int(count) if count else 0}


def parse_device(text: str) -> dict[str, str]:
    """Understand HOST[:CONTAINER][:rwm]."""
    parts = text.split(":")
    target, permissions = parts[0], "rwm"
    if not parts[0] or len(parts) > 3:
        raise CliError(f"invalid device specification: {text}", 125)
    if len(parts) == 3:
        target, permissions = parts[1], parts[2]
    elif len(parts) == 2:
        if parts[1] and set(parts[1]) <= set("rwm"):
            permissions = parts[1]
        else:
            target = parts[1]
    if not target.startswith("/"):
        raise CliError(f"{target} is not an absolute path", 125)
    return {"PathOnHost": parts[0], "PathInContainer": target or parts[0], "CgroupPermissions": permissions}


def is_cdi_name(text: str) -> bool:
    """Tell `vendor.com/class=name`, a device that a file describes, from a path."""
    kind, equals, name = text.partition("=")
    vendor, slash, sort = kind.partition("/")
    return bool(equals and slash and vendor and sort and name) and "/" not in sort and ":" not in text


def device_requests(options: Options) -> list[dict[str, Any]]:
    """The devices that are asked for by capability or name instead of path."""
    found = [parse_gpus(text) for text in options.texts("gpus")]
    names = [text for text in options.texts("device") if is_cdi_name(text)]
    if names:
        found.append({"Driver": "cdi", "Count": 0, "DeviceIDs": names, "Capabilities": None, "Options": None})
    return found


def parse_gpus(text: str) -> dict[str, Any]:
    """Understand one `--gpus`: "all", a count, or "device=0,capabilities=utility"."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        if not equals or key == "count":
            value = value or key
            if value != "all" and not value.isdigit():
                raise CliError(f'invalid count ({value}): value must be either "all" or an integer', 125)
            request["Count"] = -1 if value == "all" else int(value)
        elif key == "driver":
            request["Driver"] = value
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = pairs(value.split(","))
        else:
            raise CliError(f"unexpected key '{key}' in '{field}'", 125)
    if not request["Count"] and not request["DeviceIDs"]:
        request["Count"] = 1
    return request


def security_options(texts: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Read seccomp profiles in, and take `systempaths=unconfined` out: it is two fields of the request."""
    out: list[str] = []
    fields: dict[str, Any] = {}
    for text in texts:
        split = text.find("=") if "=" in text else text.find(":")
        name, value = (text[:split], text[split + 1 :]) if split >= 0 else (text, "")
        if name == "systempaths" and value == "unconfined":
            fields = {"MaskedPaths": [], "ReadonlyPaths": []}
            continue
        if name == "seccomp" and value not in ("unconfined", "builtin") and value:
            try:
                with open(value, encoding="utf-8") as file:
                    profile = file.read()
            except OSError as error:
                raise CliError(
                    f"opening seccomp profile ({value}) failed: open {value}: {error.strerror}", 125
                ) from None
            import json

            text = "seccomp=" + json.dumps(json.loads(profile), separators=(",", ":"))
        elif split < 0 and name != "no-new-privileges":
            raise CliError(f"invalid --security-opt: {text!r}", 125)
        out.append(text)
    return out, fields


def healthcheck(options: Options) -> dict[str, Any] | None:
    """The health check that the flags ask for; None leaves the image's."""
    times = {
        "Interval": options.number("health-interval"),
        "Timeout": options.number("health-timeout"),
        "StartPeriod": options.number("health-start-period"),
        "StartInterval": options.number("health-start-interval"),
        "Retries": options.number("health-retries"),
    }
    command = options.text("health-cmd")
    asked = bool(command) or any(times.values())
    if options.flag("no-healthcheck"):
        if asked:
            raise CliError("--no-healthcheck conflicts with --health-* options", 125)
        return {"Test": ["NONE"]}
    if not asked:
        return None
    for name, value in times.items():
        if value < 0:
            raise CliError(f"--health-{name.lower()} cannot be negative", 125)
    health: dict[str, Any] = {"Test": ["CMD-SHELL", command]} if command else {}
    return health | {name: value for name, value in times.items() if value}


def networking(options: Options) -> tuple[str, dict[str, Any]]:
    """The network mode and the endpoints' settings. Raises CliError."""
    endpoints: dict[str, Any] = {}
    mode = ""
    for text in [*options.texts("network"), *options.texts("net")]:
        settings: dict[str, Any] = {}
        name = text
        if "=" in text:
            name = ""
            for field in split_csv(text):
                key, _, value = field.partition("=")
                if key == "name":
                    name = value
                elif key == "alias":
                    settings.setdefault("Aliases", []).append(value)
                elif key == "ip":
                    settings.setdefault("IPAMConfig", {})["IPv4Address"] = value
                elif key == "ip6":
                    settings.setdefault("IPAMConfig", {})["IPv6Address"] = value
                elif key == "link-local-ip":
                    settings.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
                elif key == "mac-address":
                    settings["MacAddress"] = value
                elif key == "driver-opt":
                    option, _, content = value.partition("=")
                    settings.setdefault("DriverOpts", {})[option] = content
                elif key == "gw-priority":
                    settings["GwPriority"] = int(value)
                else:
                    raise CliError(f"invalid field {key} in --network", 125)
            if not name:
                raise CliError("network name cannot be empty", 125)
        mode = mode or name
        endpoints[name] = settings
    first = endpoints.setdefault(mode or "default", {})
    aliases = [*options.texts("network-alias"), *options.texts("net-alias")]
    predefined = mode in ("", "default", "bridge", "host", "none") or mode.startswith("container:")
    if aliases:
        first["Aliases"] = aliases
    addresses = {
        "IPv4Address": options.text("ip"),
        "IPv6Address": options.text("ip6"),
        "LinkLocalIPs": options.texts("link-local-ip"),
    }
    if any(addresses.values()):
        first["IPAMConfig"] = {name: value for name, value in addresses.items() if value}
    if options.text("mac-address"):
        first["MacAddress"] = options.text("mac-address")
    if options.texts("link") and not predefined:
        first["Links"] = options.texts("link")
    if len(endpoints) == 1 and not first:
        endpoints = {}
    return mode or "default", endpoints


def attached(options: Options) -> tuple[bool, bool, bool]:
    """Which of stdin, stdout and stderr the client attaches to."""
    streams = options.texts("attach")
    if not streams:
        return options.flag("interactive"), True, True
    return "stdin" in streams, "stdout" in streams, "stderr" in streams


def make_config(options: Options, environment: Mapping[str, str], proxies: Mapping[str, str]) -> dict[str, Any]:
    """The container's config: the part of the request that is portable. What `--env` names is left out of `proxies`."""
    image, *command = options.args
    stdin, stdout, stderr = attached(options)
    bindings = parse_publish(options.texts("publish"))
    _, anonymous = parse_volumes(options.texts("volume"))
    entrypoint: list[str] | None = None
    if options.changed("entrypoint"):
        # An empty string takes the image's entrypoint away.
        entrypoint = [options.text("entrypoint")]
    texts = options.texts("env")
    named = {text.partition("=")[0] for text in texts}
    texts = [*(f"{name}={value}" for name, value in proxies.items() if name not in named), *texts]
    config: dict[str, Any] = {
        "Hostname": options.text("hostname"),
        "Domainname": options.text("domainname"),
        "User": options.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        "ExposedPorts": {**parse_expose(options.texts("expose")), **{port: {} for port in bindings}},
        "Tty": options.flag("tty"),
        "OpenStdin": options.flag("interactive"),
        "StdinOnce": options.flag("interactive") and stdin,
        "Env": read_env(options.texts("env-file"), texts, environment),
        "Cmd": command or None,
        "Image": image,
        "Volumes": anonymous,
        "WorkingDir": options.text("workdir"),
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": read_labels(options.texts("label-file"), options.texts("label")),
    }
    if options.text("stop-signal"):
        config["StopSignal"] = options.text("stop-signal")
    if options.changed("stop-timeout"):
        config["StopTimeout"] = options.number("stop-timeout")
    health = healthcheck(options)
    if health is not None:
        config["Healthcheck"] = health
    return config


def make_resources(options: Options) -> dict[str, Any]:
    """The limits on what the container may use."""
    memory, swap = options.number("memory"), options.number("memory-swap")
    return {
        "CpuShares": options.number("cpu-shares"),
        "Memory": memory,
        "NanoCpus": options.number("cpus"),
        "CgroupParent": options.text("cgroup-parent"),
        "BlkioWeight": options.number("blkio-weight"),
        "BlkioWeightDevice": options.value("blkio-weight-device"),
        "BlkioDeviceReadBps": options.value("device-read-bps"),
        "BlkioDeviceWriteBps": options.value("device-write-bps"),
        "BlkioDeviceReadIOps": options.value("device-read-iops"),
        "BlkioDeviceWriteIOps": options.value("device-write-iops"),
        "CpuPeriod": options.number("cpu-period"),
        "CpuQuota": options.number("cpu-quota"),
        "CpuRealtimePeriod": options.number("cpu-rt-period"),
        "CpuRealtimeRuntime": options.number("cpu-rt-runtime"),
        "CpusetCpus": options.text("cpuset-cpus"),
        "CpusetMems": options.text("cpuset-mems"),
        "Devices": [parse_device(text) for text in options.texts("device") if not is_cdi_name(text)],
        "DeviceCgroupRules": options.texts("device-cgroup-rule") or None,
        "DeviceRequests": device_requests(options) or None,
        "MemoryReservation": options.number("memory-reservation"),
        "MemorySwap": swap,
        "MemorySwappiness": options.number("memory-swappiness"),
        "OomKillDisable": options.flag("oom-kill-disable"),
        "PidsLimit": options.number("pids-limit"),
        "Ulimits": options.value("ulimit"),
        "CpuCount": options.number("cpu-count"),
        "CpuPercent": options.number("cpu-percent"),
        "IOMaximumIOps": options.number("io-maxiops"),
        "IOMaximumBandwidth": options.number("io-maxbandwidth"),
    }


def make_host_config(options: Options, console: tuple[int, int]) -> dict[str, Any]:
    """The part of the request that is about this host."""
    from scow.cli.mounts import parse_mount

    binds, _ = parse_volumes(options.texts("volume"))
    security, path_fields = security_options(options.texts("security-opt"))
    mode, _ = networking(options)
    mounts = []
    for text in options.texts("mount"):
        try:
            mounts.append(parse_mount(text))
        except ValueError as error:
            from scow.cli.errors import FlagError

            raise FlagError(f'invalid argument "{text}" for "--mount" flag: {error}') from None
    predefined = mode in ("", "default", "bridge") or not options.texts("link")
    host: dict[str, Any] = {
        "Binds": binds or None,
        "ContainerIDFile": os.path.abspath(options.text("cidfile")) if options.text("cidfile") else "",
        "LogConfig": {"Type": options.text("log-driver"), "Config": pairs(options.texts("log-opt"))},
        "NetworkMode": mode,
        "PortBindings": parse_publish(options.texts("publish")),
        "RestartPolicy": restart_policy(options.text("restart")),
        "AutoRemove": options.flag("rm"),
        "VolumeDriver": options.text("volume-driver"),
        "VolumesFrom": options.texts("volumes-from") or None,
        "ConsoleSize": list(console),
        "CapAdd": options.texts("cap-add") or None,
        "CapDrop": options.texts("cap-drop") or None,
        "CgroupnsMode": options.text("cgroupns"),
        "Dns": options.texts("dns"),
        "DnsOptions": [*options.texts("dns-option"), *options.texts("dns-opt")],
        "DnsSearch": options.texts("dns-search"),
        "ExtraHosts": options.texts("add-host") or None,
        "GroupAdd": options.texts("group-add") or None,
        "IpcMode": options.text("ipc"),
        "Cgroup": "",
        "Links": (options.texts("link") or None) if predefined else None,
        "OomScoreAdj": options.number("oom-score-adj"),
        "PidMode": options.text("pid"),
        "Privileged": options.flag("privileged"),
        "PublishAllPorts": options.flag("publish-all"),
        "ReadonlyRootfs": options.flag("read-only"),
        "SecurityOpt": security or None,
        "UTSMode": options.text("uts"),
        "UsernsMode": options.text("userns"),
        "ShmSize": options.number("shm-size"),
        "Isolation": options.text("isolation"),
        **make_resources(options),
        "MaskedPaths": None,
        "ReadonlyPaths": None,
        **path_fields,
    }
    if mounts:
        host["Mounts"] = mounts
    if options.texts("tmpfs"):
        host["Tmpfs"] = parse_tmpfs(options.texts("tmpfs"))
    if options.texts("storage-opt"):
        host["StorageOpt"] = pairs(options.texts("storage-opt"))
    if options.texts("sysctl"):
        host["Sysctls"] = pairs(options.texts("sysctl"))
    if options.texts("annotation"):
        host["Annotations"] = pairs(options.texts("annotation"))
    if options.text("runtime"):
        host["Runtime"] = options.text("runtime")
    if options.changed("init"):
        host["Init"] = options.flag("init")
    return host


def make_request(
    options: Options,
    environment: Mapping[str, str],
    console: tuple[int, int] = (0, 0),
    proxies: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The body of POST /containers/create. `console` is the terminal's size. Raises CliError."""
    if options.flag("rm") and options.text("restart") not in ("", "no"):
        raise CliError("conflicting options: cannot specify both --restart and --rm", 125)
    if options.changed("memory-swappiness") and not -1 <= options.number("memory-swappiness") <= 100:
        value = options.number("memory-swappiness")
        raise CliError(f"invalid value: {value}. Valid memory swappiness range is 0-100", 125)
    _, endpoints = networking(options)
    return {
        **make_config(options, environment, proxies or {}),
        "HostConfig": make_host_config(options, console),
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }
