"""What pages read in manifests and image configs, which anybody may have pushed: what has a wrong form is left out."""

import json
from typing import Any, Final

import msgspec

from scow.oci import media_types


class Part(msgspec.Struct, frozen=True):
    """A descriptor, as far as a page shows it."""

    digest: str
    size: int
    media_type: str
    platform: str


class Document(msgspec.Struct, frozen=True):
    """A manifest or index."""

    config: Part | None
    layers: list[Part]
    manifests: list[Part]
    annotations: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of layers and config."""
        return sum(part.size for part in self.layers) + (self.config.size if self.config else 0)


NOTHING: Final = Document(None, [], [], {})
"""What is shown of one that is not read."""


class Step(msgspec.Struct, frozen=True):
    """A line of an image's history."""

    command: str
    created: str
    empty: bool


class Image(msgspec.Struct, frozen=True):
    """An image config."""

    platform: str
    created: str
    settings: list[tuple[str, str]]  # by name, as lines
    history: list[Step]


def read_document(data: bytes) -> Document:
    """Read a manifest that the registry has accepted."""
    document = _object(_decode(data))
    config = _part(document.get("config"))
    layers = [*_list(document.get("layers")), *_list(document.get("blobs"))]
    return Document(
        config,
        [part for item in layers if (part := _part(item)) is not None],
        [part for item in _list(document.get("manifests")) if (part := _part(item)) is not None],
        _texts(document.get("annotations")),
    )


def read_image(data: bytes) -> Image:
    """Read an image config; what is none gives an empty one."""
    document = _object(_decode(data))
    config = _object(document.get("config"))
    settings: list[tuple[str, str]] = []
    for name in ("Entrypoint", "Cmd", "WorkingDir", "User", "Env", "ExposedPorts", "Volumes", "Labels", "StopSignal"):
        value = config.get(name)
        if not value:
            continue
        if isinstance(value, dict):
            lines = [f"{key}={text}" if name == "Labels" else str(key) for key, text in value.items()]
        elif isinstance(value, list) and name == "Env":
            lines = [str(item) for item in value]
        else:
            lines = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
        settings.append((name, "\n".join(lines)))
    steps = [_object(item) for item in _list(document.get("history"))]
    history = [
        Step(
            _text(step.get("created_by")) or _text(step.get("comment")),
            _text(step.get("created")),
            bool(step.get("empty_layer")),
        )
        for step in steps
    ]
    return Image(_platform(document), _text(document.get("created")), settings, history)


def is_image_config(media_type: str) -> bool:
    """Whether a config of this type is an image's."""
    return media_type in media_types.CONFIGS


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _part(value: Any) -> Part | None:
    item = _object(value)
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(digest, str) or not isinstance(size, int):
        return None
    return Part(digest, size, _text(item.get("mediaType")), _platform(_object(item.get("platform"))))


def _platform(value: dict[str, Any]) -> str:
    return "/".join(text for key in ("os", "architecture", "variant") if (text := _text(value.get(key))))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    return {key: text for key, text in _object(value).items() if isinstance(text, str)}
