"""Where a build's result goes, and in which form: BuildKit's exporters with their options, and annotations.

https://docs.docker.com/build/exporters, https://docs.docker.com/build/metadata/annotations.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from scow.errors import InvalidArgument
from scow.oci.media_types import Compression
from scow.oci.platform import Platform, normalize, parse_platform
from scow.oci.reference import Reference, parse_reference
from scow.store.compression import LEVELS

Kind = Literal["image", "registry", "docker", "oci", "local", "tar", "cacheonly"]
Place = Literal["manifest", "index", "manifest-descriptor", "index-descriptor"]

KINDS: Final = ("image", "registry", "docker", "oci", "local", "tar", "cacheonly")
PLACES: Final = ("manifest", "index", "manifest-descriptor", "index-descriptor")
_COMPRESSIONS: Final = {"gzip": Compression.GZIP, "zstd": Compression.ZSTD, "uncompressed": Compression.NONE}
_ANNOTATION: Final = re.compile(r"annotation(?:-([a-z-]+?))?(?:\[([^\]]*)\])?\.(.+)", re.DOTALL)
_SCOPE: Final = re.compile(r"(?:([a-z-]+(?:,[a-z-]+)*)?(?:\[([^\]]*)\])?):(.*)", re.DOTALL)
_TRUE: Final = frozenset({"true", "1", "t"})
_FALSE: Final = frozenset({"false", "0", "f"})
_NO_IMAGE: Final = frozenset({"local", "tar", "cacheonly"})


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """A note in a manifest or index, or on the descriptor of one; `platform` None: of every platform."""

    place: Place
    key: str
    value: str
    platform: Platform | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One place that a result goes to."""

    kind: Kind
    is_file: bool = False  # the client fetches it: an archive or a tree
    names: tuple[Reference, ...] = ()
    compression: Compression | None = None
    level: int | None = None
    force: bool = False  # layers of base images, too
    oci: bool | None = None  # media types; None: what the image needs
    rewrite_timestamp: bool = False
    platform_split: bool | None = None  # a tree for several platforms has a directory for each
    annotations: tuple[Annotation, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether it is a manifest with layers, rather than a tree of files."""
        return self.kind not in _NO_IMAGE

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked of the form: the image can do without a manifest until it is pushed."""
        form = (self.compression, self.level, self.force, self.oci, self.annotations)
        return form == (None, None, False, None, ())


def decode_outputs(values: Sequence[Mapping[str, Any]]) -> tuple[Output, ...]:
    """Read the API's `outputs`, objects with Type and Attrs. Raises InvalidArgument, also for two at odds."""
    found = []
    for value in values:
        attributes = value.get("Attrs") or {}
        if not isinstance(attributes, dict) or not all(isinstance(each, str) for each in attributes.values()):
            raise InvalidArgument(f"invalid output: Attrs of {value.get('Type')} is not an object of texts")
        found.append(parse_output(str(value.get("Type") or ""), attributes))
    forms = {
        msgspec.structs.replace(each, kind="image", names=()) for each in found if each.is_image and not each.is_file
    }
    if len(forms) > 1:  # the catalogue knows one manifest of an image
        raise InvalidArgument("outputs of an image to the engine and to registries can't differ in their form")
    return tuple(found)


def parse_output(kind: str, attributes: Mapping[str, str]) -> Output:
    """Read one output. Raises InvalidArgument that names the option."""
    if kind not in KINDS:
        raise InvalidArgument(f"unsupported output type {kind!r}: it is one of {', '.join(KINDS)}")
    fields: dict[str, Any] = {}
    annotations: list[Annotation] = []
    for name, value in attributes.items():
        if found := _ANNOTATION.fullmatch(name):
            annotations.append(_annotation(found[1] or "manifest", found[2], found[3], value, name))
        elif name in _OPTIONS and (kind not in _NO_IMAGE or name in _OF_TREES):
            fields.update(_OPTIONS[name](name, value))
        else:
            raise InvalidArgument(f"output type {kind} has no option {name!r}")
    level, compression = fields.get("level"), fields.get("compression") or Compression.GZIP
    if level is not None and level not in LEVELS.get(compression, ()):
        raise InvalidArgument(f"invalid compression-level {level} for {compression}")
    is_file = kind in ("local", "tar", "oci") or (kind == "docker" and bool(attributes.get("dest")))
    fields.setdefault("oci", True if kind == "oci" else None)
    return Output(kind=cast(Kind, kind), is_file=is_file, annotations=tuple(annotations), **fields)


def parse_annotation(text: str) -> list[Annotation]:
    """Read `--annotation [SCOPE:]KEY=VALUE`; SCOPE is a list of places, with `[PLATFORM]` behind.

    Raises InvalidArgument. https://docs.docker.com/build/metadata/annotations/#specify-annotation-level
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidArgument(f"invalid annotation {text!r}: expected key=value")
    scope = _SCOPE.fullmatch(key)
    if scope is None or not (scope[1] or scope[2]) or not set((scope[1] or "manifest").split(",")) <= set(PLACES):
        return [_annotation("manifest", None, key, value, text)]
    return [_annotation(place, scope[2], scope[3], value, text) for place in (scope[1] or "manifest").split(",")]


def _annotation(place: str, platform: str | None, key: str, value: str, text: str) -> Annotation:
    if place not in PLACES or not key:
        raise InvalidArgument(f"invalid annotation {text!r}: it goes to one of {', '.join(PLACES)}")
    wanted = normalize(parse_platform(platform)) if platform else None
    return Annotation(place=cast(Place, place), key=key, value=value, platform=wanted)


def _flag(field: str) -> Callable[[str, str], dict[str, Any]]:
    def read(name: str, value: str) -> dict[str, Any]:
        word = value.lower()
        if word not in _TRUE and word not in _FALSE:
            raise InvalidArgument(f"non-bool value {value!r} specified for {name}")
        return {field: word in _TRUE} if field else {}

    return read


def _compression(name: str, value: str) -> dict[str, Any]:
    if value not in _COMPRESSIONS:
        raise InvalidArgument(f"unsupported compression {value!r}: it is one of {', '.join(_COMPRESSIONS)}")
    return {"compression": _COMPRESSIONS[value]}


def _level(name: str, value: str) -> dict[str, Any]:
    try:
        return {"level": int(value)}
    except ValueError:
        raise InvalidArgument(f"non-integer value {value!r} specified for {name}") from None


def _names(name: str, value: str) -> dict[str, Any]:
    return {"names": tuple(parse_reference(each).with_default_tag() for each in value.split(",") if each)}


_OPTIONS: Final[Mapping[str, Callable[[str, str], dict[str, Any]]]] = {
    "dest": lambda name, value: {},  # the client's
    "name": _names,
    "push": _flag(""),  # the client pushes: it has the credentials
    "store": _flag(""),
    "unpack": _flag(""),  # layers here are always ready to be mounted
    "tar": _flag(""),  # the client unpacks
    "compression": _compression,
    "compression-level": _level,
    "force-compression": _flag("force"),
    "oci-mediatypes": _flag("oci"),
    "oci-artifact": _flag(""),  # attestations are OCI artifacts always
    "rewrite-timestamp": _flag("rewrite_timestamp"),
    "platform-split": _flag("platform_split"),
}
_OF_TREES: Final = frozenset({"dest", "platform-split", "rewrite-timestamp"})
