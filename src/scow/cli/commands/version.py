"""`scow version`: versions of the client and of the engine."""

from __future__ import annotations

import os
import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Options
from scow.cli.listing import format_flag
from scow.cli.version import API_VERSION, CLIENT_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def client_version(session: Session, api: str) -> dict[str, Any]:
    """The client's half, by docker's field names."""
    machine = os.uname().machine
    return {
        "Platform": {"Name": ""},
        "Version": CLIENT_VERSION,
        "ApiVersion": api,
        "DefaultAPIVersion": API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "PythonVersion": ".".join(str(part) for part in sys.version_info[:3]),
        "Os": sys.platform,
        "Arch": ARCHITECTURES.get(machine, machine),
        "BuildTime": "",
        "Context": session.host.context,
    }


def show_time(text: str) -> str:
    """Write a build time as docker does; text that is no time stays."""
    import time

    from scow.cli.timestamps import parse_rfc3339

    try:
        moment = time.gmtime(parse_rfc3339(text))
    except (ValueError, IndexError):
        return text
    return time.strftime("%a %b ", moment) + f"{moment.tm_mday:2d}" + time.strftime(" %H:%M:%S %Y", moment)


def version(session: Session, options: Options) -> int:
    """Show both versions; the client's alone, and exit code 1, if no engine answers."""
    failure: CliError | None = None
    server: dict[str, Any] | None = None
    api = API_VERSION
    try:
        server = session.engine.get("/version")
        api = ".".join(str(part) for part in session.engine.version)
    except CliError as error:
        failure = error
    client = client_version(session, api)
    form = options.text("format")
    if form:
        _templated(form, client, server)
    else:
        sys.stdout.write(show_client(client) + ("\n" + show_server(server) if server else ""))
    if failure is not None:
        session.warn(failure.message)
        return 1
    return 0


def _templated(form: str, client: dict[str, Any], server: dict[str, Any] | None) -> None:
    from scow.cli.gotemplate import Template
    from scow.cli.template_functions import TemplateError

    try:
        text = Template("{{json .}}" if form == "json" else form, "version").execute(
            {"Client": client, "Server": server}
        )
    except TemplateError as error:
        sys.stdout.write("\n")
        raise CliError(str(error)) from None
    sys.stdout.write(text + "\n")


def show_client(client: dict[str, Any]) -> str:
    api = client["ApiVersion"]
    downgraded = f" (downgraded from {API_VERSION})" if api != API_VERSION else ""
    lines = [
        "Client:",
        f" Version:           {client['Version']}",
        f" API version:       {api}{downgraded}",
        f" Python version:    {client['PythonVersion']}",
        f" OS/Arch:           {client['Os']}/{client['Arch']}",
        f" Context:           {client['Context']}",
    ]
    return "\n".join(lines) + "\n"


def show_server(server: dict[str, Any]) -> str:
    """The engine's half: each of its components with what it tells."""
    platform = (server.get("Platform") or {}).get("Name") or ""
    lines = ["Server:" + (f" {platform}" if platform else "")]
    for component in server.get("Components") or [
        {"Name": "Engine", "Version": server.get("Version", ""), "Details": server}
    ]:
        details = component.get("Details") or {}
        lines.append(f" {component['Name']}:")
        lines.append(f"  Version:          {component.get('Version', '')}")
        if component["Name"] == "Engine":
            oldest = details.get("MinAPIVersion", "")
            lines.append(f"  API version:      {details.get('ApiVersion', '')} (minimum version {oldest})")
            if details.get("GoVersion"):
                lines.append(f"  Go version:       {details['GoVersion']}")
            if details.get("PythonVersion"):
                lines.append(f"  Python version:   {details['PythonVersion']}")
            lines.append(f"  Git commit:       {details.get('GitCommit', '')}")
            lines.append(f"  Built:            {show_time(details.get('BuildTime', ''))}")
            lines.append(f"  OS/Arch:          {details.get('Os', '')}/{details.get('Arch', '')}")
            lines.append(f"  Experimental:     {details.get('Experimental', 'false')}")
        else:
            lines += [f"  {name + ':':<18}{value}" for name, value in sorted(details.items())]
    return "\n".join(lines) + "\n"


COMMANDS = {"version": Command(version, flags=(format_flag("f", inspect=True),))}
