"""The flags of `scowd`: dockerd's names. What was given becomes a mapping of configuration fields, nothing more."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from scow import __version__
from scow.engine.config import CONFIG_FILE, DATA_ROOT, EXEC_ROOT
from scow.engine.log_limits import parse_size
from scow.errors import InvalidArgument

_LEVELS: Final = ("debug", "info", "warn", "error", "fatal")


class Flags(NamedTuple):
    """The command line: `given` are configuration fields; the file to read, and whether that was asked for."""

    given: dict[str, Any]
    file: Path
    file_required: bool
    only_validate: bool


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Read the command line.

    Exits the process, as argparse does, with status 2 for flags that make no sense.
    """
    given = vars(_parser().parse_args(arguments))
    file = given.pop("config_file", None)
    validate = given.pop("validate", False)
    runtimes = given.pop("add_runtime", None)
    if runtimes is not None:
        given["runtimes"] = {name: {"path": path} for name, path in runtimes}
    for field in ("log_opts", "default_ulimits"):
        if field in given:
            given[field] = dict(given[field])
    options = given.pop("default_network_opts", None)
    if options is not None:
        given["default_network_opts"] = {}
        for driver, (name, value) in options:
            given["default_network_opts"].setdefault(driver, {})[name] = value
    return Flags(given, Path(file) if file is not None else CONFIG_FILE, file is not None, validate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scowd",
        description="The Scow engine: serves the Docker Engine API.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", "-v", action="version", version=f"Scow version {__version__}")
    text = _adder(parser)
    text("--config-file", help=f"daemon.json to read (default {CONFIG_FILE})")
    text("--data-root", metavar="DIR", help=f"where state is kept (default {DATA_ROOT})")
    text("--exec-root", metavar="DIR", help=f"where what lives until a reboot is kept (default {EXEC_ROOT})")
    text("--pidfile", "-p", metavar="FILE", help="file to write the process ID to")
    text("--default-runtime", metavar="NAME", help="OCI runtime for containers (default: the first that works)")
    text("--storage-driver", "-s", metavar="NAME", help="erofs or overlay2 (default: erofs where the kernel can)")
    text("--bip", metavar="CIDR", help="address of the default bridge, with its prefix length")
    text(
        "--bridge",
        "-b",
        metavar="NAME",
        help="name of the default bridge; one that exists is used with its addresses; none: no default bridge",
    )
    text("--ip", metavar="ADDRESS", help="address to publish ports at by default (default all)")
    text("--fixed-cidr", metavar="CIDR", help="part of the default bridge's subnet that containers get addresses of")
    text("--fixed-cidr-v6", metavar="CIDR", help="the same for IPv6")
    text("--bip6", metavar="CIDR", help="IPv6 address of the default bridge, with its prefix length")
    text("--cgroup-parent", metavar="PATH", help="control group above those of containers")
    text("--seccomp-profile", metavar="FILE", help="seccomp profile of containers: a file, builtin or unconfined")
    text("--metrics-addr", metavar="HOST:PORT", help="where Prometheus metrics are served, at /metrics")
    text("--min-api-version", metavar="VERSION", help="oldest API version to be served (default 1.24)")
    text("--tlscacert", metavar="FILE", help="trust client certificates signed by this CA")
    text("--tlscert", metavar="FILE", help="TLS certificate of the engine")
    text("--tlskey", metavar="FILE", help="TLS key of the engine")
    text("--userns-remap", metavar="USER[:GROUP]", help="user namespaces for containers")
    text("--group", "-G", metavar="NAME", help="group of the unix socket (default docker)")
    text("--log-driver", metavar="NAME", help="default log driver of containers")
    text("--init-path", metavar="FILE", help="init that runs in containers that ask for one")
    parser.add_argument(
        "--layer-compression",
        choices=("gzip", "zstd"),
        help="of layers that were made here, when pushed (default gzip)",
    )
    parser.add_argument("--log-level", "-l", choices=_LEVELS, help="how much the engine says (default info)")
    for name, choices, explanation in (
        ("--log-format", ("text", "json"), "how the engine writes its log (default text)"),
        ("--default-ipc-mode", ("private", "shareable"), "IPC namespace of containers (default private)"),
        ("--default-cgroupns-mode", ("private", "host"), "cgroup namespace of containers"),
    ):
        parser.add_argument(name, choices=choices, help=explanation)
    parser.add_argument(
        "--default-shm-size", type=_size, metavar="BYTES", help="size of /dev/shm in containers (default 64m)"
    )
    parser.add_argument(
        "--validate", action="store_true", help="check the configuration, say whether it is right, and leave"
    )
    for name, explanation in (
        ("--mtu", "MTU of containers' links"),
        ("--max-concurrent-downloads", "layers that a pull loads at a time"),
        ("--max-concurrent-uploads", "layers that a push sends at a time"),
        ("--max-download-attempts", "how often a registry is tried"),
        ("--shutdown-timeout", "seconds that unfinished work gets when the engine ends"),
        ("--oom-score-adjust", "the engine's own oom_score_adj"),
    ):
        parser.add_argument(name, type=int, metavar="N", help=explanation)
    for names, explanation in (
        (("--debug", "-D"), "debug mode"),
        (("--tls",), "use TLS (implied by --tlsverify)"),
        (("--tlsverify",), "use TLS and demand a client certificate"),
        (("--live-restore",), "keep containers alive while the engine is down (always on)"),
        (("--init",), "run an init in containers"),
        (("--keep-compressed-layers",), "keep layers as they were pulled, too, for pushes and saves (default true)"),
        (("--experimental",), "say that experimental features are on"),
        (("--icc",), "let containers on the default bridge reach each other (default true)"),
        (("--ip-masq",), "masquerade what leaves the default bridge (default true)"),
        (("--ipv6",), "IPv6 on the default bridge"),
        (("--userland-proxy",), "carry TCP from the machine's IPv6 to containers without (default true)"),
        (("--selinux-enabled",), "give containers SELinux labels, where the kernel has SELinux"),
        (("--no-new-privileges",), "no-new-privileges for containers that don't say otherwise"),
    ):
        parser.add_argument(*names, type=_boolean, nargs="?", const=True, metavar="true|false", help=explanation)
    for names, field, kind, explanation in (
        (("--cdi-spec-dir",), "cdi_spec_dirs", _plain, "folder of device files (CDI)"),
        (("--host", "-H"), "hosts", _plain, "address to listen on: unix://PATH, tcp://HOST:PORT, fd://"),
        (("--registry-mirror",), "registry_mirrors", _plain, "mirror of Docker Hub"),
        (("--insecure-registry",), "insecure_registries", _plain, "registry to reach without verified TLS"),
        (("--dns",), "dns", _plain, "DNS server for containers"),
        (("--dns-search",), "dns_search", _plain, "DNS search domain for containers"),
        (("--dns-opt",), "dns_opts", _plain, "DNS option for containers"),
        (("--label",), "labels", _plain, "label of the engine, KEY=VALUE"),
        (("--add-runtime",), "add_runtime", _pair, "OCI runtime, NAME=PATH"),
        (("--default-address-pool",), "default_address_pools", _pool, "subnets of new networks, base=CIDR,size=BITS"),
        (("--default-network-opt",), "default_network_opts", _network_option, "of new networks, DRIVER=OPTION=VALUE"),
        (("--host-gateway-ip",), "host_gateway_ips", _plain, "address that host-gateway means for containers"),
        (("--log-opt",), "log_opts", _pair, "option of the default log driver, KEY=VALUE"),
        (("--default-ulimit",), "default_ulimits", _ulimit, "limit for containers, NAME=SOFT[:HARD]"),
    ):
        parser.add_argument(*names, dest=field, type=kind, action="append", metavar="VALUE", help=explanation)
    return parser


def _adder(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    return parser.add_argument


def _plain(text: str) -> str:
    return text


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, not {text!r}")
    return name, value


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pool(text: str) -> dict[str, Any]:
    found = dict(_pair(word) for word in text.split(","))
    if set(found) != {"base", "size"} or not found["size"].isdigit():
        raise argparse.ArgumentTypeError(f"expected base=CIDR,size=BITS, not {text!r}")
    return {"base": found["base"], "size": int(found["size"])}


def _network_option(text: str) -> tuple[str, tuple[str, str]]:
    driver, option = _pair(text)
    return driver, _pair(option)


def _ulimit(text: str) -> tuple[str, dict[str, Any]]:
    name, value = _pair(text)
    soft, _, hard = value.partition(":")
    try:
        return name, {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=SOFT[:HARD], not {text!r}") from error
