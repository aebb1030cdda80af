"""The base of all Engine API messages, and the one pair of functions that turns them into bytes and back.

Docker's daemon reads JSON as Go does: field names match whatever their case, `null` leaves a plain field at its zero
value, unknown fields are ignored. `decode` does the same, and is strict about everything else. On the way out some
fields vanish when they are empty (Go's `omitempty`); a message names those in `OMIT_EMPTY`.
"""

import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from scow.errors import InvalidArgument

T = TypeVar("T")

_EMPTY: Final = object()


class Message(msgspec.Struct, kw_only=True, frozen=True, rename="pascal"):
    """A message of the Engine API: attributes in snake case, Go's field names on the wire."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset()


class SparseMessage(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A message all of whose defaults are left out on the wire; msgspec then encodes it without our help."""


class _StringList:
    """Marks a field that also takes one plain string (Go's `strslice`): `"Cmd": "ls"` means `["ls"]`."""


StringList = Annotated[list[str], _StringList()]


class MalformedMessage(InvalidArgument):
    """A request body that isn't JSON, or doesn't have the shape that was asked for."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid JSON: {reason}")
        self.reason = reason


def decode(kind: type[T], data: bytes | bytearray | memoryview) -> T:
    """Decode a request of the type `kind` as docker would. Raises MalformedMessage, which names the field."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(_json_fault(data, error)) from error
    return convert(kind, raw)


def convert(kind: type[T], raw: object) -> T:
    """Turn decoded JSON into a message of the type `kind`. Raises MalformedMessage, which names the field."""
    try:
        return msgspec.convert(_reader(cast(Any, kind))(raw), kind)
    except _OutOfRange as error:
        raise MalformedMessage(error.fault(kind)) from error
    except msgspec.ValidationError as error:
        raise MalformedMessage(_type_fault(kind, str(error))) from error
    except RecursionError as error:
        raise MalformedMessage("exceeded max depth") from error


def encode(message: object) -> bytes:
    """Encode a reply, or a list or mapping of them, leaving out what Go would leave out."""
    if isinstance(message, list):
        plain = not message or not _omits(cast(Any, type(message[0])))
    else:
        plain = not isinstance(message, dict) and not _omits(cast(Any, type(message)))
    return _ENCODER.encode(message if plain else to_plain(message))


def to_plain(value: object) -> Any:
    """Give a message as dicts and lists with the names of the wire, without the fields that Go would leave out."""
    if isinstance(value, msgspec.Struct):
        kind = type(value)
        return _writer(kind)(value) if _omits(kind) else msgspec.to_builtins(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict | Mapping):  # the first for most, and cheaper to tell
        return {key: to_plain(item) for key, item in value.items()}
    return value


_ENCODER: Final = msgspec.json.Encoder()


def _json_fault(data: bytes | bytearray | memoryview, error: Exception) -> str:
    if not bytes(data).strip():
        return "got EOF while reading request body"
    if isinstance(error, RecursionError):
        return "exceeded max depth"
    text = str(error)
    if "truncated" in text:
        return "unexpected EOF"
    return text.removeprefix("JSON is malformed: ")


def _type_fault(kind: type, text: str) -> str:
    problem, _, path = text.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    words = problem.replace("Expected `", "").rstrip("`").split("`, got `")
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    if problem.startswith("Expected `") and len(words) == 2 and field:
        wanted, got = words
        return f"json: cannot unmarshal {_go_word(got)} into Go struct field {name}.{field} of type {_go_word(wanted)}"
    if problem.startswith("Expected `") and len(words) == 2:
        return f"json: cannot unmarshal {_go_word(words[1])} into Go value of type {name}"
    return f"{field}: {problem}" if field else problem


_GO_WORDS: Final = {"str": "string", "int": "number", "float": "number", "array": "array", "object": "object"}


def _go_word(word: str) -> str:
    parts = [part for part in word.split(" | ") if part != "null"] or ["null"]
    return "|".join(_GO_WORDS.get(part, part) for part in parts)


# --- reading ----------------------------------------------------------------------------------------------------------

_Reader = Callable[[Any], Any]
_ZERO: Final[Mapping[Any, object]] = {str: "", int: 0, bool: False}


class _OutOfRange(Exception):
    """A number that Go's int64 can't hold; `path` grows on the way out of the message."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value
        self.path = ""

    def fault(self, kind: type) -> str:
        field = f"struct field {kind.__name__}{self.path}" if self.path else f"value of type {kind.__name__}"
        return f"json: cannot unmarshal number {self.value} into Go {field} of type int64"


def _same(value: Any) -> Any:
    return value


def _int64(value: Any) -> Any:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise _OutOfRange(value)
    return value


@cache
def _reader(kind: Any) -> _Reader:
    """Make the function that brings JSON into the shape that `kind` wants: names in case, plain nulls dropped."""
    origin = get_origin(kind)
    if kind is int:
        return _int64
    if origin is Annotated:
        inner, *marks = get_args(kind)
        reader = _reader(inner)
        if any(isinstance(mark, _StringList) for mark in marks):
            return lambda value: [value] if isinstance(value, str) else reader(value)
        return reader
    if origin in (Union, types.UnionType):
        readers = {_reader(arm) for arm in get_args(kind) if arm is not type(None)} - {_same}
        return readers.pop() if len(readers) == 1 else _same
    if origin is list:
        inner = get_args(kind)[0]
        item = _reader(inner)
        zero = _zero(inner)

        def read_list(value: Any) -> Any:
            if not isinstance(value, list):
                return value
            return [zero if part is None and zero is not _EMPTY else item(part) for part in value]

        return read_list
    if origin is dict:
        each = _reader(get_args(kind)[1])
        nullable = _takes_null(get_args(kind)[1])
        zero = _zero(get_args(kind)[1])

        def read_map(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            if nullable or zero is _EMPTY:
                return value if each is _same else {key: each(item) for key, item in value.items()}
            return {key: zero if item is None else each(item) for key, item in value.items()}

        return read_map
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct_reader(kind)
    return _same


def _struct_reader(kind: type[msgspec.Struct]) -> _Reader:
    hints = get_type_hints(kind, include_extras=True)
    fields = msgspec.structs.fields(kind)
    # Filled in later, on the first message: a message may contain itself.
    table: dict[str, tuple[str, _Reader, bool]] = {}
    folded: dict[str, str] = {}

    def read(value: Any) -> Any:
        if value is None or not isinstance(value, dict):
            return value
        if not table:
            for field in fields:
                hint = hints[field.name]
                table[field.encode_name] = (field.encode_name, _reader(hint), _takes_null(hint))
                folded[field.encode_name.casefold()] = field.encode_name
        result: dict[str, Any] = {}
        for key, item in value.items():
            entry = table.get(key)
            if entry is None:
                known = folded.get(key.casefold())
                if known is None:
                    continue
                entry = table[known]
            name, reader, nullable = entry
            if item is None:
                if nullable:
                    result[name] = None
                continue
            try:
                result[name] = reader(item)
            except _OutOfRange as error:
                error.path = f".{name}{error.path}"
                raise
        return result

    return read


def _zero(hint: Any) -> object:
    """What Go makes of a null in a list or map of these; _EMPTY where null itself is meant, or wrong."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {}
    return _EMPTY if _takes_null(hint) else _ZERO.get(hint, _EMPTY)


def _takes_null(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _takes_null(get_args(hint)[0])
    return hint is Any or hint is object or type(None) in get_args(hint)


# --- writing ----------------------------------------------------------------------------------------------------------


@cache
def _omits(kind: type) -> bool:
    """Whether a message of the type `kind`, or one inside it, has fields that vanish when empty."""
    return issubclass(kind, msgspec.Struct) and _any_omits(kind, set())


def _any_omits(hint: Any, seen: set[Any]) -> bool:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if hint in seen:
            return False
        seen.add(hint)
        if getattr(hint, "OMIT_EMPTY", None):
            return True
        return any(_any_omits(part, seen) for part in get_type_hints(hint).values())
    return any(_any_omits(part, seen) for part in get_args(hint))


@cache
def _writer(kind: type[msgspec.Struct]) -> Callable[[Any], dict[str, Any]]:
    omit: frozenset[str] = getattr(kind, "OMIT_EMPTY", frozenset())
    sparse = bool(kind.__struct_config__.omit_defaults)
    hints = get_type_hints(kind, include_extras=True)
    plan: list[tuple[str, str, object, bool]] = []
    for field in msgspec.structs.fields(kind):
        default = field.default
        if default is msgspec.NODEFAULT and callable(field.default_factory):
            default = field.default_factory()
        vanishes = field.name in omit or (sparse and default is not msgspec.NODEFAULT)
        plain = hints[field.name] in (str, int, bool, float)
        plan.append((field.name, field.encode_name, default if vanishes else _EMPTY, plain))

    def write(message: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, wire_name, vanishing, plain in plan:
            value = getattr(message, name)
            if value is msgspec.UNSET:
                continue
            if vanishing is not _EMPTY and (value is None or value == vanishing or value in ([], {})):
                continue
            result[wire_name] = value if plain else to_plain(value)
        return result

    return write
