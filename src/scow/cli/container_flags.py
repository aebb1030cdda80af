"""The flags that `run` and `create` share: everything that describes a container."""

from __future__ import annotations

from scow.cli.flags import Flag, parse_int, parse_ip
from scow.cli.units import parse_duration, parse_size

STREAMS = ("stdin", "stdout", "stderr")


def parse_bytes(text: str) -> int:
    """Understand a size; -1 is allowed."""
    return -1 if text == "-1" else parse_size(text)


def parse_unsigned(text: str) -> int:
    number = parse_int(text)
    if not 0 <= number < 1 << 16:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return number


def parse_attach(text: str) -> str:
    if text.lower() not in STREAMS:
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def parse_cpus(text: str) -> int:
    """Understand a number of CPUs as billionths."""
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdigit():
        raise ValueError(f"failed to parse {text} as a rational number")
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    return int(whole or "0") * 10**9 + int(fraction[:9].ljust(9, "0"))


def parse_ulimit(text: str) -> dict[str, object]:
    """Understand NAME=SOFT[:HARD]."""
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    soft, colon, hard = values.partition(":")
    try:
        limits = (int(soft), int(hard) if colon else int(soft))
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{values}": invalid syntax') from None
    if limits[1] != -1 and (limits[0] > limits[1] or limits[0] == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard or soft}")
    return {"Name": name, "Soft": limits[0], "Hard": limits[1]}


def parse_env(text: str) -> str:
    if not text or text.startswith("="):
        raise ValueError(f"invalid environment variable: {text}")
    return text


def parse_host(text: str) -> str:
    """Understand HOST:ADDRESS or HOST=ADDRESS."""
    split = text.find("=") if "=" in text else text.find(":")
    if split < 1 or split == len(text) - 1:
        raise ValueError(f'bad format for add-host: "{text}"')
    address = text[split + 1 :]
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return f"{text[:split]}:{address}"


def parse_link(text: str) -> str:
    if not text or text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    name, _, alias = text.partition(":")
    return f"{name}:{alias or name}"


def parse_weight_device(text: str) -> dict[str, object]:
    path, _, weight = text.partition(":")
    if not path.startswith("/dev/") or not weight.isdigit():
        raise ValueError(f"bad format: {text}")
    if int(weight) and not 10 <= int(weight) <= 1000:
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def parse_rate(text: str) -> dict[str, object]:
    """Understand DEVICE:BYTES per second."""
    path, _, rate = text.partition(":")
    if not path.startswith("/dev/") or not rate:
        raise ValueError(f"bad format: {text}")
    return {"Path": path, "Rate": parse_size(rate)}


def _many(name: str, kind: str, about: str, convert: object, shown: str = "") -> Flag:
    return Flag(name, "", kind, about, convert=convert, many=True, shown=shown)  # type: ignore[arg-type]  # one of the parsers above


def _number(name: str, about: str, default: int = 0, shown: str = "", short: str = "") -> Flag:
    return Flag(name, short, "int", about, default=default, shown=shown)


def _duration(name: str, about: str) -> Flag:
    return Flag(name, "", "duration", about + " (ms|s|m|h)", convert=parse_duration, default=0, shown="0s")


def _bytes(name: str, about: str, short: str = "") -> Flag:
    return Flag(name, short, "bytes", about, convert=parse_bytes, default=0)


CONTAINER_FLAGS: tuple[Flag, ...] = (
    _many("add-host", "list", "Add a custom host-to-IP mapping (host:ip)", parse_host),
    Flag(
        "annotation", "", "map", "Add an annotation to the container (passed through to the OCI runtime)", shown="map[]"
    ),
    Flag("attach", "a", "list", "Attach to STDIN, STDOUT or STDERR", convert=parse_attach),
    Flag(
        "blkio-weight",
        "",
        "uint16",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable",
        convert=parse_unsigned,
        default=0,
        shown="0",
    ),
    _many("blkio-weight-device", "list", "Block IO weight (relative device weight)", parse_weight_device, shown="[]"),
    Flag("cap-add", "", "list", "Add Linux capabilities"),
    Flag("cap-drop", "", "list", "Drop Linux capabilities"),
    Flag("cgroup-parent", "", "string", "Optional parent cgroup for the container"),
    Flag("cgroupns", "", "string", "Cgroup namespace to use (host|private)"),
    Flag("cidfile", "", "string", "Write the container ID to the file"),
    _number("cpu-count", "CPU count (Windows only)"),
    _number("cpu-percent", "CPU percent (Windows only)"),
    _number("cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period"),
    _number("cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    _number("cpu-rt-period", "Limit CPU real-time period in microseconds"),
    _number("cpu-rt-runtime", "Limit CPU real-time runtime in microseconds"),
    _number("cpu-shares", "CPU shares (relative weight)", short="c"),
    Flag("cpus", "", "decimal", "Number of CPUs", convert=parse_cpus, default=0),
    Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag("device", "", "list", "Add a host device to the container"),
    Flag("device-cgroup-rule", "", "list", "Add a rule to the cgroup allowed devices list"),
    _many("device-read-bps", "list", "Limit read rate (bytes per second) from a device", parse_rate, shown="[]"),
    _many("device-read-iops", "list", "Limit read rate (IO per second) from a device", parse_rate, shown="[]"),
    _many("device-write-bps", "list", "Limit write rate (bytes per second) to a device", parse_rate, shown="[]"),
    _many("device-write-iops", "list", "Limit write rate (IO per second) to a device", parse_rate, shown="[]"),
    Flag("disable-content-trust", "", "bool", "Skip image verification", default=True, shown="true"),
    Flag("dns", "", "list", "Set custom DNS servers", parse_ip),
    Flag("dns-opt", "", "list", "", hidden=True),
    Flag("dns-option", "", "list", "Set DNS options"),
    Flag("dns-search", "", "list", "Set custom DNS search domains"),
    Flag("domainname", "", "string", "Container NIS domain name"),
    Flag("entrypoint", "", "string", "Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "e", "list", "Set environment variables", convert=parse_env),
    Flag("env-file", "", "list", "Read in a file of environment variables"),
    Flag("expose", "", "list", "Expose a port or a range of ports"),
    Flag("gpus", "", "gpu-request", "GPU devices to add to the container ('all' to pass all GPUs)", many=True),
    Flag("group-add", "", "list", "Add additional groups to join"),
    Flag("health-cmd", "", "string", "Command to run to check health"),
    _duration("health-interval", "Time between running the check"),
    _number("health-retries", "Consecutive failures needed to report unhealthy"),
    _duration("health-start-interval", "Time between running the check during the start period"),
    _duration(
        "health-start-period", "Start period for the container to initialize before starting health-retries countdown"
    ),
    _duration("health-timeout", "Maximum time to allow one check to run"),
    Flag("help", "", "bool", "Print usage"),
    Flag("hostname", "h", "string", "Container host name"),
    Flag("init", "", "bool", "Run an init inside the container that forwards signals and reaps processes"),
    Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
    _bytes("io-maxbandwidth", "Maximum IO bandwidth limit for the system drive (Windows only)"),
    Flag("io-maxiops", "", "uint", "Maximum IOps limit for the system drive (Windows only)", default=0),
    Flag("ip", "", "string", "IPv4 address (e.g., 172.30.100.104)"),
    Flag("ip6", "", "string", "IPv6 address (e.g., 2001:db8::33)"),
    Flag("ipc", "", "string", "IPC mode to use"),
    Flag("isolation", "", "string", "Container isolation technology"),
    _bytes("kernel-memory", "Kernel memory limit"),
    Flag("label", "l", "list", "Set meta data on a container"),
    Flag("label-file", "", "list", "Read in a line delimited file of labels"),
    _many("link", "list", "Add link to another container", parse_link),
    Flag("link-local-ip", "", "list", "Container IPv4/IPv6 link-local addresses"),
    Flag("log-driver", "", "string", "Logging driver for the container"),
    Flag("log-opt", "", "list", "Log driver options"),
    Flag("mac-address", "", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    _bytes("memory", "Memory limit", short="m"),
    _bytes("memory-reservation", "Memory soft limit"),
    _bytes("memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"),
    _number("memory-swappiness", "Tune container memory swappiness (0 to 100)", default=-1, shown="-1"),
    Flag("mount", "", "mount", "Attach a filesystem mount to the container", many=True),
    Flag("name", "", "string", "Assign a name to the container"),
    Flag("net", "", "list", "", hidden=True),
    Flag("net-alias", "", "list", "", hidden=True),
    Flag("network", "", "network", "Connect a container to a network", many=True),
    Flag("network-alias", "", "list", "Add network-scoped alias for the container"),
    Flag("no-healthcheck", "", "bool", "Disable any container-specified HEALTHCHECK"),
    Flag("oom-kill-disable", "", "bool", "Disable OOM Killer"),
    _number("oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)"),
    Flag("pid", "", "string", "PID namespace to use"),
    _number("pids-limit", "Tune container pids limit (set -1 for unlimited)"),
    Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
    Flag("privileged", "", "bool", "Give extended privileges to this container"),
    Flag("publish", "p", "list", "Publish a container's port(s) to the host"),
    Flag("publish-all", "P", "bool", "Publish all exposed ports to random ports"),
    Flag(
        "pull",
        "",
        "string",
        'Pull image before running ("always", "missing", "never")',
        default="missing",
        shown='"missing"',
    ),
    Flag("quiet", "q", "bool", "Suppress the pull output"),
    Flag("read-only", "", "bool", "Mount the container's root filesystem as read only"),
    Flag("restart", "", "string", "Restart policy to apply when a container exits", default="no", shown='"no"'),
    Flag("rm", "", "bool", "Automatically remove the container and its associated anonymous volumes when it exits"),
    Flag("runtime", "", "string", "Runtime to use for this container"),
    Flag("security-opt", "", "list", "Security Options"),
    _bytes("shm-size", "Size of /dev/shm"),
    Flag("stop-signal", "", "string", "Signal to stop the container"),
    _number("stop-timeout", "Timeout (in seconds) to stop a container"),
    Flag("storage-opt", "", "list", "Storage driver options for the container"),
    Flag("sysctl", "", "map", "Sysctl options", shown="map[]"),
    Flag("tmpfs", "", "list", "Mount a tmpfs directory"),
    Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
    _many("ulimit", "ulimit", "Ulimit options", parse_ulimit, shown="[]"),
    Flag("use-api-socket", "", "bool", "Bind mount the engine's API socket, and copy credentials for registries"),
    Flag("user", "u", "string", "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("userns", "", "string", "User namespace to use"),
    Flag("uts", "", "string", "UTS namespace to use"),
    Flag("volume", "v", "list", "Bind mount a volume"),
    Flag("volume-driver", "", "string", "Optional volume driver for the container"),
    Flag("volumes-from", "", "list", "Mount volumes from the specified container(s)"),
    Flag("workdir", "w", "string", "Working directory inside the container"),
)
