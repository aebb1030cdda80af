"""`scow context create`, `update`, `rm`, `export` and `import`: changes of the contexts that docker's tools keep."""

from __future__ import annotations

import os
import sys

from scow.cli.command import Command
from scow.cli.commands.context import current, default_context
from scow.cli.context_store import DEFAULT, TLS_FILES, ContextStore, check_name, pack, unpack
from scow.cli.errors import CliError
from scow.cli.flags import FALSE, TRUE, Flag, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from scow.cli.session import Session

ENDPOINT_KEYS = ("from", "host", "ca", "cert", "key", "skip-tls-verify")
KEYS_HELP = """

Docker endpoint config:

NAME                DESCRIPTION
from                Copy named context's Docker endpoint configuration
host                Docker endpoint on which to connect
ca                  Trust certs signed only by this CA
cert                Path to TLS certificate file
key                 Path to TLS key file
skip-tls-verify     Skip TLS certificate validation"""


def parse_pairs(text: str) -> dict[str, str]:
    """Read `a=b,c="d,e"` as docker does: values of a CSV line. Raises ValueError."""
    import csv

    pairs = {}
    for word in next(csv.reader([text])) if text else []:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word} must be formatted as key=value")
        pairs[key] = value
    return pairs


def _flags() -> tuple[Flag, ...]:
    return (
        Flag("description", "", "string", "Description of the context"),
        Flag("docker", "", "stringToString", "set the docker endpoint", parse_pairs, shown="[]", many=True),
    )


def endpoint_options(options: Options) -> dict[str, str]:
    """The values of all `--docker` flags together."""
    merged: dict[str, str] = {}
    values = options.value("docker")
    for pairs in values if isinstance(values, list) else []:
        merged.update(pairs)
    return merged


def read(session: Session, store: ContextStore, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A context and its TLS files, the default one too. Raises CliError."""
    return (default_context(session), {}) if name == DEFAULT else (store.read(name), store.tls(name))


def endpoint(
    session: Session, store: ContextStore, asked: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The endpoint that `--docker` describes, and its TLS files. Raises CliError in docker's words."""
    try:
        for key in asked:
            if key not in ENDPOINT_KEYS:
                raise CliError(f"unrecognized config key: {key}")
        if "from" in asked:
            source, tls = read(session, store, asked["from"])
            return dict(source["Endpoints"]["docker"]), tls
        skip = asked.get("skip-tls-verify", "")
        if skip and skip not in TRUE | FALSE:
            raise CliError(f'skip-tls-verify: parsing "{skip}": invalid syntax')
        files = {}
        for key, name in zip(("ca", "cert", "key"), TLS_FILES, strict=True):
            if asked.get(key):
                try:
                    with open(asked[key], "rb") as file:
                        files[name] = file.read()
                except OSError as error:
                    raise CliError(f"open {asked[key]}: {(error.strerror or str(error)).lower()}") from None
        check_tls(files, asked)
        return {"Host": asked.get("host", ""), "SkipTLSVerify": skip in TRUE}, files
    except CliError as error:
        raise CliError(f"unable to create docker endpoint config: {error.message}") from None


def check_tls(files: Mapping[str, bytes], asked: Mapping[str, str]) -> None:
    """Raise CliError for TLS files that no connection could be made with."""
    if not files:
        return
    import ssl

    invalid = "invalid docker endpoint options: failed to retrieve context tls info:"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ca.pem" in files:
        try:
            context.load_verify_locations(cadata=files["ca.pem"].decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise CliError(f"{invalid} ca.pem seems invalid") from None
    if "cert.pem" in files and "key.pem" in files:
        try:
            context.load_cert_chain(asked["cert"], asked["key"], password=lambda: "")
        except (OSError, ValueError) as error:
            raise CliError(f"{invalid} {asked['cert']} and {asked['key']} are no pair: {error}") from None


def create(session: Session, options: Options) -> None:
    """Make a context of what `--docker` or another context says, of the current settings without either."""
    name, store = options.args[0], ContextStore(session.config.folder)
    check_name(name)
    if store.exists(name):
        raise CliError(f'context "{name}" already exists')
    asked = endpoint_options(options)
    metadata: dict[str, str] = {}
    if asked and options.text("from"):
        raise CliError("cannot use --docker flag when --from is set")
    if asked:
        found, tls = endpoint(session, store, asked)
    else:
        source, tls = read(session, store, options.text("from") or current(session))
        found = dict(source["Endpoints"]["docker"])
        metadata = dict(source.get("Metadata") or {})
    if options.changed("description"):
        metadata["Description"] = options.text("description")
    store.write({"Name": name, "Metadata": metadata, "Endpoints": {"docker": found}}, tls)
    session.print(name)
    session.warn(f'Successfully created context "{name}"')


def update(session: Session, options: Options) -> None:
    """Change a context's description or endpoint."""
    name, store = options.args[0], ContextStore(session.config.folder)
    check_name(name)
    meta, tls = store.read(name), None
    if options.changed("description"):
        meta["Metadata"] = {**(meta.get("Metadata") or {}), "Description": options.text("description")}
    asked = endpoint_options(options)
    if asked:
        found, tls = endpoint(session, store, asked)
        meta["Endpoints"] = {**(meta.get("Endpoints") or {}), "docker": found}
    store.write(meta, tls)
    session.print(name)
    session.warn(f'Successfully updated context "{name}"')


def rm(session: Session, options: Options) -> int:
    """Remove contexts; one that is in use only by force."""
    store, failed = ContextStore(session.config.folder), []
    force = options.flag("force")
    now = current(session)
    for name in options.args:
        if name == DEFAULT:
            failed.append('context "default" cannot be removed')
        elif not store.exists(name) and not force:
            failed.append(f'context "{name}" does not exist')
        elif name == now and not force:
            failed.append(f'context "{name}" is in use, set -f flag to force remove')
        else:
            store.remove(name)
            if session.config.text("currentContext") == name:
                session.config.values.pop("currentContext")
                session.config.save()
            session.print(name)
    for text in failed:
        session.warn(text)
    return 1 if failed else 0


def export(session: Session, options: Options) -> None:
    """Write a context as a tar to a file, NAME.dockercontext by default, or to stdout."""
    name = options.args[0]
    target = options.args[1] if len(options.args) > 1 else f"{name}.dockercontext"
    data = pack(*read(session, ContextStore(session.config.folder), name))
    if target == "-":
        if session.is_terminal(1):
            raise CliError("cowardly refusing to export to a terminal, specify a file path")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CliError(f"open {target}: {(error.strerror or str(error)).lower()}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    session.warn(f'Written file "{target}"')


def import_(session: Session, options: Options) -> None:
    """Make a context of a tar or zip that was exported."""
    name, path = options.args
    store = ContextStore(session.config.folder)
    check_name(name)
    if store.exists(name):
        raise CliError(f'context "{name}" already exists')
    if path == "-":
        meta, tls = unpack(sys.stdin.buffer)
    else:
        try:
            with open(path, "rb") as file:
                meta, tls = unpack(file)
        except OSError as error:
            raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    store.write({**meta, "Name": name}, tls)
    session.print(name)
    session.warn(f'Successfully imported context "{name}"')


COMMANDS = {
    "create": Command(
        create,
        "CONTEXT",
        (*_flags(), Flag("from", "", "string", "create context from a named context")),
        1,
        1,
        long="Create a context" + KEYS_HELP,
    ),
    "update": Command(update, "CONTEXT", _flags(), 1, 1, long="Update a context" + KEYS_HELP),
    "rm": Command(
        rm, "CONTEXT [CONTEXT...]", (Flag("force", "f", "bool", "Force the removal of a context in use"),), 1, None
    ),
    "export": Command(
        export, "CONTEXT [FILE|-]", (), 1, 2, long="Export a context to a tar archive FILE or a tar stream on STDOUT."
    ),
    "import": Command(import_, "CONTEXT FILE|-", (), 2, 2),
}
