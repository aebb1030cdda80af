"""Tables as docker prints them: columns by name, `--format` with a template, `--quiet`."""

from __future__ import annotations

import sys

from scow.cli.errors import CliError
from scow.cli.flags import Flag
from scow.cli.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Field = tuple[str, Callable[[Any], object]]

MIN_WIDTH = 10
PARSING_ERROR = "template parsing error"
PADDING = 3

FORMAT_ABOUT = (
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template."
)
INSPECT_FORMAT_ABOUT = (
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template."
)


def format_flag(short: str = "", inspect: bool = False) -> Flag:
    return Flag("format", short, "string", INSPECT_FORMAT_ABOUT if inspect else FORMAT_ABOUT)


def parse_filter(text: str) -> str:
    """Check that a filter has the form name=value."""
    if "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    return text


def filter_flag(about: str) -> Flag:
    return Flag("filter", "f", "filter", about, convert=parse_filter, many=True)


def encode_filters(filters: Sequence[str]) -> str:
    """Encode `--filter` values as the API takes them; "" if there are none."""
    table: dict[str, dict[str, bool]] = {}
    for text in filters:
        name, _, value = text.partition("=")
        table.setdefault(name.strip().lower(), {})[value.strip()] = True
    return dumps(table, sort=True) if table else ""


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns; the last column is not padded."""
    if not rows:
        return ""
    # As tab-writer counts: a cell is in a column only if another cell follows it, and columns are runs of such lines.
    widths: list[int] = []
    for column in range(max(len(row) for row in rows) - 1):
        cells = [len(row[column]) for row in rows if column < len(row) - 1]
        widths.append(max(MIN_WIDTH, max(cells, default=0) + PADDING))
    lines = []
    for row in rows:
        cells_text = [cell.ljust(widths[number]) for number, cell in enumerate(row[:-1])]
        lines.append("".join(cells_text) + (row[-1] if row else ""))
    return "\n".join(lines) + "\n"


class Row:
    """One line of a listing as a template sees it: fields by name, computed when asked."""

    __slots__ = ("fields", "item", "kind")

    def __init__(self, item: Any, fields: Mapping[str, Field], kind: str) -> None:
        self.item = item
        self.fields = fields
        self.kind = kind

    def find_field(self, name: str) -> object:
        """Compute a field. Raises KeyError."""
        return self.fields[name][1](self.item)

    def as_table(self) -> dict[str, object]:
        return {name: self.find_field(name) for name in sorted(self.fields) if self.fields[name][0]}


def print_listing(
    items: Sequence[Any],
    fields: Mapping[str, Field],
    columns: Sequence[str],
    template: str,
    kind: str,
    quiet: str = "",
    complaint: tuple[str, str] = (PARSING_ERROR, PARSING_ERROR),
) -> None:
    """Print `items`. `columns` are the default table's, `template` is `--format`, `quiet` the field that -q shows.

    `kind` names the type in error messages, which begin with one of `complaint` (parsing, execution).
    Raises CliError for a template that can't be parsed or executed.
    """
    if template in ("", "table"):
        if quiet:
            sys.stdout.write("".join(f"{fields[quiet][1](item)}\n" for item in items))
            return
        getters = [fields[name][1] for name in columns]
        rows = [[fields[name][0] for name in columns]]
        rows += [[str(get(item)) for get in getters] for item in items]
        sys.stdout.write(align(rows))
        return
    if template == "raw" and quiet:
        template = f"{quiet.lower()}: {{{{.{quiet}}}}}"
    _print_templated(items, fields, template, kind, complaint)


def _print_templated(
    items: Sequence[Any], fields: Mapping[str, Field], template: str, kind: str, complaint: tuple[str, str]
) -> None:
    from scow.cli.gotemplate import Template
    from scow.cli.template_functions import TemplateError

    table = template == "table" or template.startswith("table ")
    if template == "json":
        template = "{{json .}}"
    elif table:
        template = template.removeprefix("table ").strip(" ")
    template = template.replace("\\t", "\t").replace("\\n", "\n")
    try:
        parsed = Template(template)
    except TemplateError as error:
        raise CliError(f"{complaint[0]}: {error}") from None
    lines: list[str] = []
    try:
        for item in items:
            lines.append(parsed.execute(Row(item, fields, kind)))
        if table:
            headers = Row(None, {name: (header, _constant(header)) for name, (header, _) in fields.items()}, kind)
            headers_text = parsed.execute(HeaderRow(headers))
            lines.insert(0, headers_text)
    except TemplateError as error:
        raise CliError(f"{complaint[1]}: {error}") from None
    if table:
        sys.stdout.write(align([cells.split("\t") for line in lines for cells in line.split("\n")]))
    else:
        sys.stdout.write("".join(line + "\n" for line in lines))


def _constant(value: str) -> Callable[[Any], object]:
    return lambda _: value


class HeaderRow(dict[str, object]):
    """The headings as a template sees them; what has none (a label asked by name) is headed by its own name."""

    def __init__(self, row: Row) -> None:
        super().__init__((name, header) for name, (header, _) in row.fields.items())
        self["Label"] = lambda name="": name
