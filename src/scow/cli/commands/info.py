"""`scow info`: what the engine says about itself and its machine."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Options
from scow.cli.listing import format_flag
from scow.cli.units import bytes_size
from scow.cli.version import CLIENT_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def client_info(session: Session) -> dict[str, Any]:
    return {
        "Debug": session.options.flag("debug"),
        "Version": CLIENT_VERSION,
        "Context": session.host.context,
        "Plugins": [],
        "Warnings": None,
    }


def info(session: Session, options: Options) -> int:
    """Show what the engine says; exit code 1 if none answers."""
    failure: CliError | None = None
    server: dict[str, Any] = {}
    try:
        server = session.engine.get("/info")
    except CliError as error:
        failure = error
    client = client_info(session)
    form = options.text("format")
    if form:
        from scow.cli.gotemplate import Template
        from scow.cli.template_functions import TemplateError

        data = {**server, "ServerErrors": [failure.message] if failure else None, "ClientInfo": client}
        try:
            text = Template("{{json .}}" if form == "json" else form).execute(data)
        except TemplateError as error:
            raise CliError(f"template parsing error: {error}") from None
        sys.stdout.write(text + "\n")
    else:
        lines = [
            "Client:",
            f" Version:    {client['Version']}",
            f" Context:    {client['Context']}",
            f" Debug Mode: {_bool(client['Debug'])}",
            "",
            "Server:",
        ]
        sys.stdout.write("\n".join(lines + (server_lines(server) if server else [])) + "\n" + "\n" * bool(server))
    if failure is not None:
        session.warn(failure.message)
        if not form:
            session.warn("errors pretty printing info")
        return 1
    for warning in server.get("Warnings") or []:
        if not form:
            session.warn(str(warning))
    return 0


def _bool(value: object) -> str:
    return "true" if value else "false"


def security_lines(options: list[str]) -> list[str]:
    """Security options, each with its settings below it."""
    lines: list[str] = []
    for option in options:
        fields = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f"  {fields.pop('name', option)}")
        lines += [f"   {key.capitalize()}: {value}" for key, value in fields.items()]
    return lines


def server_lines(data: dict[str, Any]) -> list[str]:
    """The engine's half, line by line; what it does not tell is left out."""
    lines = [
        f" Containers: {data.get('Containers', 0)}",
        f"  Running: {data.get('ContainersRunning', 0)}",
        f"  Paused: {data.get('ContainersPaused', 0)}",
        f"  Stopped: {data.get('ContainersStopped', 0)}",
        f" Images: {data.get('Images', 0)}",
    ]

    def say(label: str, key: str, indent: int = 1) -> None:
        if data.get(key):
            lines.append(f"{' ' * indent}{label}: {data[key]}")

    say("Server Version", "ServerVersion")
    say("Storage Driver", "Driver")
    lines.extend(f"  {pair[0]}: {pair[1]}" for pair in data.get("DriverStatus") or [])
    say("Logging Driver", "LoggingDriver")
    say("Cgroup Driver", "CgroupDriver")
    say("Cgroup Version", "CgroupVersion")
    plugins = data.get("Plugins") or {}
    lines.append(" Plugins:")
    for name in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(name) or name in ("Volume", "Network"):
            lines.append(f"  {name}: {' '.join(plugins.get(name) or [])}")
    if data.get("CDISpecDirs"):
        lines.append(" CDI spec directories:")
        lines += [f"  {folder}" for folder in data["CDISpecDirs"]]
    swarm = (data.get("Swarm") or {}).get("LocalNodeState") or "inactive"
    lines.append(f" Swarm: {swarm}")
    if data.get("Runtimes"):
        lines.append(f" Runtimes: {' '.join(sorted(data['Runtimes']))}")
        lines.append(f" Default Runtime: {data.get('DefaultRuntime', '')}")
    say("Init Binary", "InitBinary")
    for label, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        if key in data:
            commit = (data[key] or {}).get("ID") or ""
            expected = (data[key] or {}).get("Expected") or commit
            note = f" (expected: {expected})" if expected != commit else ""
            lines.append(f" {label} version: {commit}{note}")
    if data.get("SecurityOptions"):
        lines += [" Security Options:", *security_lines(data["SecurityOptions"])]
    say("Kernel Version", "KernelVersion")
    say("Operating System", "OperatingSystem")
    say("OSType", "OSType")
    say("Architecture", "Architecture")
    lines.append(f" CPUs: {data.get('NCPU', 0)}")
    lines.append(f" Total Memory: {bytes_size(data.get('MemTotal', 0))}")
    for label, key in (("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")):
        say(label, key)
    lines.append(f" Debug Mode: {_bool(data.get('Debug'))}")
    if data.get("Debug"):
        lines.append(f"  File Descriptors: {data.get('NFd', 0)}")
        lines.append(f"  Goroutines: {data.get('NGoroutines', 0)}")
        lines.append(f"  System Time: {data.get('SystemTime', '')}")
        lines.append(f"  EventsListeners: {data.get('NEventsListener', 0)}")
    say("HTTP Proxy", "HttpProxy")
    say("HTTPS Proxy", "HttpsProxy")
    say("No Proxy", "NoProxy")
    if data.get("Labels"):
        lines += [" Labels:", *(f"  {label}" for label in data["Labels"])]
    lines.append(f" Experimental: {_bool(data.get('ExperimentalBuild'))}")
    registry = data.get("RegistryConfig") or {}
    insecure = [
        name for name, index in sorted((registry.get("IndexConfigs") or {}).items()) if not index.get("Secure", True)
    ] + (registry.get("InsecureRegistryCIDRs") or [])
    if insecure:
        lines += [" Insecure Registries:", *(f"  {name}" for name in insecure)]
    if registry.get("Mirrors"):
        lines += [" Registry Mirrors:", *(f"  {mirror}" for mirror in registry["Mirrors"])]
    lines.append(f" Live Restore Enabled: {_bool(data.get('LiveRestoreEnabled'))}")
    if data.get("ProductLicense"):
        lines.append(f" Product License: {data['ProductLicense']}")
    return lines


COMMANDS = {"info": Command(info, flags=(format_flag("f", inspect=True),))}
