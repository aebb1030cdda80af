"""`scow inspect` and its forms for one kind: the engine's JSON, laid out or put through a template."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError, EngineError, Exit
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.jsontext import dumps, indent, loads
from scow.cli.listing import format_flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.cli.gotemplate import Template
    from scow.cli.session import Session

    Fetch = Callable[[str], bytes]

KINDS = ("container", "image", "network", "volume")
TYPES = ", ".join(f'"{kind}"' for kind in sorted((*KINDS, "node", "service", "task", "plugin", "secret", "config")))
OTHER_KINDS = ("node", "service", "task", "plugin", "secret", "config")


def fetcher(session: Session, kind: str, options: Options) -> Fetch:
    """How an object of a kind is asked for: returns its JSON, raises EngineError."""
    engine = session.engine
    query: dict[str, str] = {}
    if kind == "container" and options.flag("size"):
        query["size"] = "1"
    if kind == "image" and "platform" in options.values and options.text("platform"):
        words = options.text("platform").split("/")
        query["platform"] = dumps(dict(zip(("os", "architecture", "variant"), words, strict=False)))
    if kind == "network" and "verbose" in options.values and options.flag("verbose"):
        query["verbose"] = "true"

    def fetch(reference: str) -> bytes:
        name = quote(reference, "/:@" if kind == "image" else "")
        path = {
            "container": f"/containers/{name}/json",
            "image": f"/images/{name}/json",
            "network": f"/networks/{name}",
            "volume": f"/volumes/{name}",
        }[kind]
        return engine.call_text("GET", path, query)

    return fetch


def find_any(session: Session, options: Options) -> Fetch:
    """Ask each kind in turn until one has the object."""

    def fetch(reference: str) -> bytes:
        for kind in KINDS:
            try:
                return fetcher(session, kind, options)(reference)
            except EngineError as error:
                if error.status != 404 and "is not a valid" not in error.reason:
                    raise
        raise CliError(f"Error: No such object: {reference}")

    return fetch


def print_objects(session: Session, options: Options, fetch: Fetch) -> int:
    """Print each object as the flags say; errors come at the end. Returns 1 if there were any."""
    template: Template | None = None
    text = options.text("format")
    as_lines = text == "json"
    if text and not as_lines:
        from scow.cli.gotemplate import Template
        from scow.cli.template_functions import TemplateError

        try:
            template = Template(text)
        except TemplateError as error:
            raise CliError(f"template parsing error: {error}", 64) from None
    found: list[str] = []
    errors: list[str] = []
    for reference in options.args:
        try:
            found.append(fetch(reference).decode("utf-8", "replace").strip())
        except CliError as error:
            errors.append(error.message)
    if template is not None:
        from scow.cli.template_functions import TemplateError

        for item in found:
            try:
                sys.stdout.write(template.execute(loads(item)) + "\n")
            except TemplateError as error:
                sys.stdout.write("\n")
                errors.append(f"template parsing error: {error}")
                break
    elif as_lines:
        sys.stdout.write("[" + ",".join(found) + "]\n")
    else:
        sys.stdout.write(indent("[" + ",".join(found) + "]") + "\n")
    if errors:
        session.warn("\n".join(errors))
        return 1
    return 0


def inspect(session: Session, options: Options) -> int:
    """Inspect objects of any kind, or of the one that --type names."""
    kind = options.text("type")
    if options.changed("type") and not kind:
        raise CliError(f"type is empty: must be one of {TYPES}")
    if kind and kind not in KINDS:
        if kind in OTHER_KINDS:
            session.print("[]")
            session.warn("\n".join(f"Error: No such {kind}: {reference}" for reference in options.args))
            raise Exit(1)
        raise CliError(f'unknown type: "{kind}": must be one of {TYPES}')
    return print_objects(session, options, fetcher(session, kind, options) if kind else find_any(session, options))


def _of_kind(kind: str) -> Callable[[Session, Options], int]:
    return lambda session, options: print_objects(session, options, fetcher(session, kind, options))


FORMAT = format_flag("f", inspect=True)
SIZE = Flag("size", "s", "bool", "Display total file sizes if the type is container")

COMMANDS = {
    "inspect": Command(
        inspect,
        "NAME|ID [NAME|ID...]",
        (FORMAT, SIZE, Flag("type", "", "string", "Only inspect objects of the given type")),
        1,
        None,
    ),
    "container": Command(
        _of_kind("container"),
        "CONTAINER [CONTAINER...]",
        (FORMAT, Flag("size", "s", "bool", "Display total file sizes")),
        1,
        None,
    ),
    "image": Command(
        _of_kind("image"),
        "IMAGE [IMAGE...]",
        (FORMAT, Flag("platform", "", "string", "Inspect a specific platform of the multi-platform image")),
        1,
        None,
    ),
    "network": Command(
        _of_kind("network"),
        "NETWORK [NETWORK...]",
        (FORMAT, Flag("verbose", "v", "bool", "Verbose output for diagnostics")),
        1,
        None,
    ),
    "volume": Command(_of_kind("volume"), "VOLUME [VOLUME...]", (FORMAT,), 1, None),
}
