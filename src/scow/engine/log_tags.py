"""Tags of log lines: docker's template of a container's names, `{{.ID}}` unless told otherwise.

daemon/logger/loginfo.go: fields and methods of a container, and a handful of text functions.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from scow.engine.container import Container
from scow.errors import InvalidArgument

DEFAULT: Final = "{{.ID}}"
DAEMON_NAME: Final = "docker"
_PART: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_FUNCTIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
    "print": str,
}


class InvalidTag(InvalidArgument):
    """The template of a tag can't be filled."""

    def __init__(self, template: str, why: str) -> None:
        super().__init__(f"template: log-tag: {why}: {template}")


def make_tag(template: str, container: Container, hostname: str) -> str:
    """Fill a template. Raises InvalidTag."""
    record = container.record
    image = (record.image or "").removeprefix("sha256:")
    values = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "FullName": f"/{record.name}",
        "ImageID": image[:12],
        "ImageFullID": record.image or "",
        "ImageName": record.image_name,
        "DaemonName": DAEMON_NAME,
        "Hostname": hostname,
        "Command": " ".join(record.args),
    }

    def fill(found: re.Match[str]) -> str:
        words = re.split(r"\s*\|\s*|\s+", found[1])
        names = [word for word in words if word.startswith(".")]
        if len(names) != 1 or names[0][1:] not in values:
            raise InvalidTag(template, f"can't evaluate {found[1]!r} for a container")
        text = values[names[0][1:]]
        for word in words:
            if word == names[0]:
                continue
            if word not in _FUNCTIONS:
                raise InvalidTag(template, f'function "{word}" not defined')
            text = _FUNCTIONS[word](text)
        return text

    filled = _PART.sub(fill, template or DEFAULT)
    if "{{" in filled:
        raise InvalidTag(template, "unclosed action")
    return filled
