"""`scow context ls`, `show`, `use` and `inspect`: the contexts that docker's tools keep."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.context_store import DEFAULT, ContextStore
from scow.cli.flags import Flag, Options
from scow.cli.hosts import DEFAULT_HOST, resolve_host
from scow.cli.jsontext import dumps
from scow.cli.listing import format_flag, print_listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def default_context(session: Session) -> dict[str, Any]:
    """The context `default`: what the environment says."""
    environment = session.environment
    host = environment.get("SCOW_HOST") or environment.get("DOCKER_HOST") or DEFAULT_HOST
    endpoint = {"Host": host, "SkipTLSVerify": False}
    return {
        "Name": DEFAULT,
        "Metadata": {"Description": "Current DOCKER_HOST based configuration"},
        "Endpoints": {"docker": endpoint},
    }


def read_contexts(session: Session) -> list[dict[str, Any]]:
    """The contexts on disk and the default one, sorted by name."""
    found = [default_context(session), *ContextStore(session.config.folder).all()]
    return sorted(found, key=lambda item: str(item["Name"]))


def current(session: Session) -> str:
    return resolve_host(session.options, session.environment, session.config).context


def ls(session: Session, options: Options) -> None:
    """List contexts."""
    name_now = current(session)

    def description(item: dict[str, Any]) -> str:
        return str((item.get("Metadata") or {}).get("Description") or "")

    def mark(item: dict[str, Any]) -> str:
        return f"{item['Name']}{' *' if item['Name'] == name_now else ''}"

    fields: dict[str, Any] = {
        "Name": ("NAME", mark if not options.text("format") else lambda item: item["Name"]),
        "Description": ("DESCRIPTION", description),
        "DockerEndpoint": ("DOCKER ENDPOINT", lambda item: item["Endpoints"]["docker"].get("Host", "")),
        "Current": ("CURRENT", lambda item: item["Name"] == name_now),
        "Error": ("ERROR", lambda item: ""),
    }
    if options.flag("quiet"):
        for item in read_contexts(session):
            session.print(str(item["Name"]))
        return
    columns = ("Name", "Description", "DockerEndpoint", "Error")
    print_listing(read_contexts(session), fields, columns, options.text("format"), "formatter.clientContextContext")
    if session.environment.get("SCOW_HOST") or session.environment.get("DOCKER_HOST"):
        name = "SCOW_HOST" if session.environment.get("SCOW_HOST") else "DOCKER_HOST"
        session.warn(
            f"Warning: {name} environment variable overrides the active context. To use a context, either set the "
            f"global --context flag, or unset {name} environment variable."
        )


def show(session: Session, options: Options) -> None:
    """Print the current context's name."""
    session.print(current(session))


def use(session: Session, options: Options) -> None:
    """Make a context the current one."""
    name = options.args[0]
    if name != DEFAULT:
        ContextStore(session.config.folder).read(name)
    session.config.values.pop("currentContext", None)
    if name != DEFAULT:
        session.config.values["currentContext"] = name
    session.config.save()
    session.print(name)
    session.warn(f'Current context is now "{name}"')
    if session.environment.get("DOCKER_HOST") or session.environment.get("SCOW_HOST"):
        session.warn(
            "Warning: DOCKER_HOST or SCOW_HOST environment variable overrides the active context. "
            f'To use "{name}", either set the global --context flag, or unset the environment variable.'
        )


def inspect(session: Session, options: Options) -> int:
    """Print contexts as JSON, or through a template."""
    from scow.cli.commands.inspect import print_objects

    store = ContextStore(session.config.folder)

    def fetch(name: str) -> bytes:
        if name == DEFAULT:
            found, files, folders = {**default_context(session), "Metadata": {}}, {}, ("<IN MEMORY>", "<IN MEMORY>")
        else:
            found, files = store.read(name), store.tls(name)
            folders = (store.meta_folder(name), store.tls_folder(name))
        material = {"docker": list(files)} if files else {}
        storage = {"MetadataPath": folders[0], "TLSPath": folders[1]}
        return dumps({**found, "TLSMaterial": material, "Storage": storage}).encode()

    options.args = options.args or [current(session)]
    return print_objects(session, options, fetch)


COMMANDS = {
    "ls": Command(ls, flags=(format_flag(), Flag("quiet", "q", "bool", "Only show context names"))),
    "show": Command(show),
    "use": Command(use, "CONTEXT", (), 1, 1),
    "inspect": Command(inspect, "[CONTEXT] [CONTEXT...]", (format_flag("f", inspect=True),), 0, None),
}
