"""What a `--format` template can call, and how Go prints, compares and tests values."""

from __future__ import annotations

import re

from scow.cli.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class TemplateError(Exception):
    """A template that can't be parsed or executed."""


NO_VALUE = type("NoValue", (), {"__repr__": lambda self: "<no value>", "__bool__": lambda self: False})()


class Nil:
    """A null that has a type: an absent list prints as `[]`, an absent map as `map[]`; as JSON both are null."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __bool__(self) -> bool:
        return False


NIL_LIST, NIL_MAP = Nil("[]"), Nil("map[]")
LIST_NAMES = """
Env Cmd Entrypoint OnBuild Binds VolumesFrom CapAdd CapDrop Dns DnsOptions DnsSearch ExtraHosts GroupAdd Links
SecurityOpt Devices DeviceRequests DeviceCgroupRules Ulimits BlkioWeightDevice MaskedPaths ReadonlyPaths ExecIDs
Mounts RepoTags RepoDigests Aliases DNSNames Warnings
"""
MAP_NAMES = "Labels Volumes ExposedPorts PortBindings Ports Options Annotations Sysctls Tmpfs StorageOpt DriverOpts"
LISTS = frozenset(LIST_NAMES.split())  # a table of words is easier to read
MAPS = frozenset(MAP_NAMES.split())


def typed_null(name: str, value: object) -> object:
    """Give the null of a field that is known to be a list or a map its type."""
    if value is not None:
        return value
    return NIL_LIST if name in LISTS else NIL_MAP if name in MAPS else None


# Fields of API objects that are left out of the JSON when empty: a template may ask for them all the same.
OPTIONAL: dict[str, object] = {
    "Health": None,
    "Healthcheck": None,
    "OnBuild": None,
    "Init": None,
    "StopTimeout": None,
    "SizeRw": None,
    "SizeRootFs": None,
    "StopSignal": "",
    "Variant": "",
    "OsVersion": "",
    "Parent": "",
    "Comment": "",
    "Author": "",
    "Runtime": "",
    "MacAddress": "",
    "Name": "",
    "Shell": [],
    "Mounts": [],
    "ExposedPorts": {},
    "Volumes": {},
    "Annotations": {},
    "Tmpfs": {},
    "Sysctls": {},
    "StorageOpt": {},
    "Options": {},
    "Labels": {},
    "ExecIDs": [],
    "Links": [],
    "Aliases": [],
}
# Maps whose keys are data: a key that isn't there is no mistake.
OPEN_MAPS = frozenset(
    ("Labels", "Annotations", "Networks", "Ports", "Options", "Sysctls", "Volumes", "ExposedPorts", "PortBindings")
)


def missing_field(parent: str, name: str) -> tuple[bool, object]:
    """What `.Parent.Name` is when the map hasn't it: (whether that is in order, the value)."""
    if parent in OPEN_MAPS:
        return True, NO_VALUE
    if name in OPTIONAL:
        return True, OPTIONAL[name]
    return False, None


def falsy(value: object) -> bool:
    """Whether a value counts as empty."""
    return not value if not hasattr(value, "find_field") else False


def format_value(value: object) -> str:
    """Print a value as Go's %v does."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, Nil):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e21:
            return str(int(value)) if abs(value) < 1e6 else f"{value:g}"
        return repr(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{format_value(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(format_value(item) for item in value) + "]"
    if hasattr(value, "as_table"):
        return format_value(value.as_table())
    return str(value)


def type_name(value: object) -> str:
    """Name a value's type in Go's words."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list):
        return "[]interface {}"
    return {str: "string", int: "int", float: "float64"}.get(type(value), "interface {}")


def to_json(value: object) -> str:
    if hasattr(value, "as_table"):
        text = dumps(value.as_table())
        # A row is a type with its own encoder, whose output Go escapes once more.
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return dumps(None if value is NO_VALUE or isinstance(value, Nil) else value)


def index(value: object, *keys: object) -> object:
    """Go's index: into maps, lists and strings. A missing key of a map is an empty value."""
    for key in keys:
        if isinstance(value, Nil):
            return ""
        if value is None:
            raise TemplateError("index of untyped nil")
        if isinstance(value, dict):
            value = value.get(str(key), "")
        elif isinstance(value, (list, str)) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TemplateError(f"error calling index: reflect: slice index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise TemplateError(f"can't index item of type {type_name(value)}")
    return value


def cut(value: object, start: int = 0, end: int | None = None, *_: int) -> object:
    if not isinstance(value, (list, str)):
        raise TemplateError(f"can't slice item of type {type_name(value)}")
    if start > len(value) or (end is not None and end > len(value)):
        raise TemplateError(f"index out of range: {end if end is not None else start}")
    return value[start:end]


def length(value: object) -> int:
    if isinstance(value, Nil):
        return 0
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (dict, list)):
        return len(value)
    if value is None:
        raise TemplateError("len of nil pointer")
    raise TemplateError(f"len of type {type_name(value)}")


def _print(*values: object) -> str:
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += format_value(value)
    return out


def _println(*values: object) -> str:
    return " ".join(format_value(value) for value in values) + "\n"


def _printf(form: str, *values: object) -> str:
    rest = list(values)

    def fill(match: re.Match[str]) -> str:
        flags, verb = match.group(1), match.group(2)
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if verb == "q":
            return f"%{flags}s" % dumps(format_value(value))
        if verb in "vst":
            return f"%{flags}s" % format_value(value)
        if verb == "T":
            return type_name(value)
        if not isinstance(value, (int, float)):
            return f"%!{verb}({type_name(value)}={format_value(value)})"
        return f"%{flags}{verb}" % value

    return re.sub(r"%([-+# 0]*\d*(?:\.\d+)?)([%a-zA-Z])", fill, form)


def equal(first: object, *others: object) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    return any(first == other and isinstance(first, bool) == isinstance(other, bool) for other in others)


def less(first: object, second: object) -> bool:
    if isinstance(first, str) and isinstance(second, str):
        return first < second
    if isinstance(first, (int, float)) and isinstance(second, (int, float)):
        return first < second
    raise TemplateError("incompatible types for comparison")


def _all(*values: object) -> object:
    return next((value for value in values if falsy(value)), values[-1])


def _any(*values: object) -> object:
    return next((value for value in values if not falsy(value)), values[-1])


def _join(values: object, separator: str) -> str:
    if isinstance(values, Nil):
        return ""
    if not isinstance(values, list):
        raise TemplateError(f"wrong type for value; expected []string; got {type_name(values)}")
    return separator.join(format_value(value) for value in values)


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _html(*values: object) -> str:
    text = _print(*values)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(plain, escaped)
    return text


FUNCTIONS: dict[str, Callable[..., object]] = {
    "and": _all,
    "or": _any,
    "not": falsy,
    "eq": equal,
    "ne": lambda a, b: not equal(a, b),
    "lt": less,
    "le": lambda a, b: less(a, b) or equal(a, b),
    "gt": lambda a, b: not less(a, b) and not equal(a, b),
    "ge": lambda a, b: not less(a, b),
    "index": index,
    "slice": cut,
    "len": length,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "html": _html,
    "json": to_json,
    "join": _join,
    "lower": lambda text: format_value(text).lower(),
    "upper": lambda text: format_value(text).upper(),
    "title": lambda text: re.sub(r"(?:^|(?<=\s))\w", lambda match: match.group().upper(), format_value(text)),
    "split": lambda text, separator: format_value(text).split(separator),
    "pad": _pad,
    "truncate": lambda text, size: text[:size],
}
