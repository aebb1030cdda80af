"""`scow events`: what happens in the engine, as it happens."""

from __future__ import annotations

import sys
import time

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError
from scow.cli.jsontext import loads
from scow.cli.listing import encode_filters, filter_flag, format_flag
from scow.cli.timestamps import parse_point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.gotemplate import Template
    from scow.cli.session import Session


def show_event(event: dict[str, Any]) -> str:
    """Write an event on one line: time, type, action, ID, attributes."""
    nano = event.get("timeNano") or 0
    seconds, rest = divmod(nano, 10**9) if nano else (event.get("time") or 0, 0)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else zone[:3] + ":" + zone[3:]
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    text = time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{rest:09d}{zone}"
    text += f" {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    if attributes:
        text += " (" + ", ".join(f"{key}={value}" for key, value in sorted(attributes.items())) + ")"
    return text


class EventView:
    """An event as a template sees it: by the names of docker's fields, which differ from the JSON's."""

    kind = "events.Message"
    NAMES = ("Type", "Action", "Actor")

    def __init__(self, event: dict[str, Any]) -> None:
        self._event = event

    def find_field(self, name: str) -> object:
        """Raises KeyError."""
        if name in self.NAMES:
            return self._event.get(name, "")
        empty: dict[str, object] = {"Status": "", "ID": "", "From": "", "Scope": "", "Time": 0, "TimeNano": 0}
        return self._event.get("id" if name == "ID" else name[0].lower() + name[1:], empty[name])

    def as_table(self) -> dict[str, Any]:
        return self._event


def fill(template: Template, event: dict[str, Any]) -> str:
    from scow.cli.template_functions import TemplateError

    try:
        return template.execute(EventView(event))
    except TemplateError as error:
        raise CliError(f"template parsing error: {error}") from None


def events(session: Session, options: Options) -> None:
    """Print events until --until, or for ever."""
    query = {}
    for name in ("since", "until"):
        if options.text(name):
            try:
                query[name] = parse_point(options.text(name), time.time())
            except ValueError as error:
                raise CliError(f'invalid value for "{name}": {error}') from None
    filters = encode_filters(options.texts("filter"))
    if filters:
        query["filters"] = filters
    template = None
    form = options.text("format")
    if form and form != "json":
        from scow.cli.gotemplate import Template
        from scow.cli.template_functions import TemplateError

        try:
            template = Template(form)
        except TemplateError as error:
            raise CliError(f"Error parsing format: {error}") from None
    response = session.engine.open("GET", "/events", query)
    try:
        for line in response.lines():
            if form == "json":
                text = line.decode("utf-8", "replace").strip()
            elif template is not None:
                text = fill(template, loads(line))
            else:
                text = show_event(loads(line))
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    except HttpError:
        pass  # the engine has gone: the stream is over
    session.engine.done(response)


COMMANDS = {
    "events": Command(
        events,
        flags=(
            filter_flag("Filter output based on conditions provided"),
            format_flag(inspect=True),
            Flag("since", "", "string", "Show all events created since timestamp"),
            Flag("until", "", "string", "Stream events until this timestamp"),
        ),
    )
}
