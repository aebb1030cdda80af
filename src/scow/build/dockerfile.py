"""Dockerfiles: read into stages of typed instructions. Dockerfile reference, all of it.

Parsing needs nothing but the text, and replaces no variables. Whatever is wrong is a DockerfileError that
knows its line.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from scow.build import instructions as kinds
from scow.build.durations import parse_duration
from scow.build.errors import DockerfileError, Lines, quoted
from scow.build.instructions import Arg, From, Instruction
from scow.build.lines import (
    Directives,
    LogicalLine,
    joined_marks,
    logical_lines,
    parse_heredoc,
    physical_lines,
    read_directives,
)
from scow.build.mounts import parse_mount_flag
from scow.build.suggest import nearest
from scow.build.syntax import (
    FlagKind,
    Flags,
    parse_array,
    parse_command,
    parse_list,
    split_arguments,
    split_flags,
    split_gaps,
    split_instruction,
    split_pairs,
)

_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_SHORTEST_NS: Final = 1_000_000
_COPY_FLAGS: Final[dict[str, FlagKind]] = {
    "from": "text",
    "chown": "text",
    "chmod": "text",
    "link": "switch",
    "parents": "switch",
    "exclude": "texts",
}
FLAGS: Final[dict[str, dict[str, FlagKind]]] = {
    "FROM": {"platform": "text"},
    "RUN": {"mount": "texts", "network": "text", "security": "text", "device": "texts"},
    "COPY": _COPY_FLAGS,
    "ADD": {
        **{name: kind for name, kind in _COPY_FLAGS.items() if name not in ("from", "parents")},
        "keep-git-dir": "switch",
        "checksum": "text",
        "unpack": "switch",
    },
    "HEALTHCHECK": {
        "interval": "text",
        "timeout": "text",
        "start-period": "text",
        "start-interval": "text",
        "retries": "text",
    },
}
"""The flags that instructions have; the others have none."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """What one FROM begins."""

    index: int
    base: From
    instructions: tuple[Instruction, ...]
    """All that follow FROM."""

    @property
    def name(self) -> str:
        """The name in lower case; empty if it has none."""
        return self.base.alias


class Dockerfile(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed file."""

    name: str
    """How messages call it."""
    source: tuple[str, ...]
    """The lines as they are in the file, with their ends."""
    directives: Directives
    global_args: tuple[Arg, ...]
    """The ARG instructions before the first FROM."""
    stages: tuple[Stage, ...]
    empty_continuations: tuple[int, ...] = ()
    """Lines that stand empty in the middle of an instruction."""

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """All instructions in the order of the file."""
        return (
            *self.global_args,
            *(one for stage in self.stages for one in (stage.base, *stage.instructions)),
        )


def parse(data: bytes | str, name: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile. Raises DockerfileError, and nothing else, whatever the bytes are."""
    source = physical_lines(data)
    try:
        return _parse(source, name)
    except DockerfileError as error:
        raise error.located(name, source) from error.__cause__


def _parse(source: list[str], name: str) -> Dockerfile:
    directives = read_directives(source)
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    empty: list[int] = []
    count = 0
    for line in logical_lines(source, directives.escape, skip=len(directives.lines)):
        count += 1
        if line.empty_continuation is not None:
            empty.append(line.empty_continuation)
        one = parse_line(line, directives.escape)
        if isinstance(one, From):
            stages.append((one, []))
        elif stages:
            stages[-1][1].append(one)
        elif isinstance(one, Arg):
            global_args.append(one)
        else:
            raise DockerfileError("no build stage in current context", lines=one.lines, token=one.keyword)
    if not count:
        raise DockerfileError("file with no instructions", lines=Lines(len(source), len(source)))
    if not stages:
        raise DockerfileError("dockerfile contains no stages to build", lines=Lines(len(source), len(source)))
    return Dockerfile(
        name=name,
        source=tuple(source),
        directives=directives,
        global_args=tuple(global_args),
        stages=tuple(
            Stage(index=index, base=base, instructions=tuple(those)) for index, (base, those) in enumerate(stages)
        ),
        empty_continuations=tuple(empty),
    )


def parse_instructions(data: bytes | str, name: str = "Dockerfile") -> tuple[Instruction, ...]:
    """Read instructions that belong to no file of their own, as those that commit and import apply.

    Raises DockerfileError.
    """
    source = physical_lines(data)
    try:
        return tuple(parse_line(line, "\\") for line in logical_lines(source, "\\"))
    except DockerfileError as error:
        raise error.located(name, source) from error.__cause__


def parse_triggers(expressions: Sequence[str]) -> tuple[Instruction, ...]:
    """The instructions that an image's ONBUILD triggers stand for, in order. Raises DockerfileError."""
    found: list[Instruction] = []
    for expression in expressions:
        for one in parse_instructions(expression, "ONBUILD"):
            _check_trigger(one.NAME)
            found.append(one)
    return tuple(found)


I = TypeVar("I", bound=Instruction)  # noqa: E741


class _Line:
    """One instruction on its way from a line to its type."""

    def __init__(self, line: LogicalLine, escape: str) -> None:
        self.line = line
        self.escape = escape
        self.keyword, rest = split_instruction(line.text)
        self.name = self.keyword.upper()
        self.written_flags, self.rest = split_flags(rest)
        self.heredocs = line.heredocs

    def flags(self) -> Flags:
        return Flags(self.written_flags, FLAGS.get(self.name, {}))

    def make(self, kind: Callable[..., I], **fields: object) -> I:
        return kind(
            keyword=self.keyword,
            text=self.line.text.strip(),
            lines=self.line.lines,
            flags=self.written_flags,
            comments=self.line.comments,
            **fields,
        )

    def one_argument(self) -> str:
        if not self.rest:
            raise DockerfileError(f"{self.name} requires exactly one argument", token=self.keyword)
        return self.rest

    def some(self, items: tuple[str, ...]) -> tuple[str, ...]:
        if not items:
            raise DockerfileError(f"{self.name} requires at least one argument", token=self.keyword)
        return items


def parse_line(line: LogicalLine, escape: str) -> Instruction:
    """The instruction on a line. Raises DockerfileError."""
    one = _Line(line, escape)
    parser = _PARSERS.get(one.name)
    try:
        if parser is None:
            raise DockerfileError(
                f"unknown instruction: {one.keyword}",
                token=one.keyword,
                suggestion=nearest(one.keyword, kinds.NAMES),
            )
        return parser(one)
    except DockerfileError as error:
        error.lines = error.lines or line.lines
        raise


def _from(one: _Line) -> From:
    words = split_gaps(one.rest)
    alias = as_keyword = ""
    if len(words) == 3 and words[1].lower() == "as":
        as_keyword, alias = words[1], words[2]
        if not _STAGE_NAME.match(alias.lower()):
            raise DockerfileError(
                f"invalid name for build stage: {quoted(alias)}, name can't start with a number or contain symbols",
                token=alias,
            )
    elif len(words) != 1:
        suggestion = "AS" if len(words) == 3 and nearest(words[1], ["as"]) and len(words[1]) < 4 else None
        raise DockerfileError(
            "FROM requires either one or three arguments",
            token=words[1] if len(words) > 1 else one.keyword,
            suggestion=suggestion,
        )
    return one.make(
        From,
        image=words[0],
        platform=one.flags().text("platform"),
        alias=alias.lower(),
        written_alias=alias,
        as_keyword=as_keyword,
    )


def _run(one: _Line) -> kinds.Run:
    flags = one.flags()
    command = parse_command(one.rest, one.heredocs)
    if not command.args and not command.shell_form:
        raise DockerfileError("RUN requires at least one argument", token=one.keyword)
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    for value, allowed, what in (
        (network, ("default", "none", "host"), "network mode"),
        (security, ("sandbox", "insecure"), "security mode"),
    ):
        if value not in allowed:
            raise DockerfileError(
                f"invalid {what}: {quoted(value)}", token=value, suggestion=nearest(value, allowed, same_case=True)
            )
    return one.make(
        kinds.Run,
        command=command,
        mounts=tuple(parse_mount_flag(text) for text in flags.texts("mount")),
        network=network,
        security=security,
        devices=flags.texts("device"),
    )


def _command(kind: type[kinds.Cmd] | type[kinds.Entrypoint]) -> Callable[[_Line], Instruction]:
    def parse_it(one: _Line) -> Instruction:
        one.flags()
        return one.make(kind, command=parse_command(one.rest))

    return parse_it


def _copy(one: _Line) -> kinds.Copy:
    words = parse_list(one.rest)
    if one.heredocs:
        words = tuple(joined_marks(words))
    if len(words) < 2:
        raise DockerfileError(
            f"{one.name} requires at least two arguments, but only one was provided. "
            "Destination could not be determined",
            token=one.keyword,
        )
    flags = one.flags()
    *written, destination = words
    announced = {document.name: document for document in one.heredocs}
    if announced and parse_heredoc(destination, one.escape):
        raise DockerfileError(f"{one.name} cannot accept a heredoc as a destination", token=destination)
    sources, inline = [], []
    for source in written:
        document = parse_heredoc(source, one.escape) if announced else None
        if document is not None and document.name in announced:
            inline.append(announced[document.name])
        else:
            sources.append(source)
    common = {
        "sources": tuple(sources),
        "inline": tuple(inline),
        "destination": destination,
        "chown": flags.text("chown"),
        "chmod": flags.text("chmod"),
        "link": flags.switch("link"),
        "exclude": flags.texts("exclude"),
    }
    if one.name == "COPY":
        if "$" in flags.text("from").rstrip("$"):
            why = "'--from' doesn't support variable expansion, define alias stage instead"
            raise DockerfileError(why, token=flags.text("from"))
        return one.make(kinds.Copy, source_stage=flags.text("from"), parents=flags.switch("parents"), **common)
    return one.make(
        kinds.Add,
        checksum=flags.text("checksum"),
        keep_git_dir=flags.find_switch("keep-git-dir"),
        unpack=flags.find_switch("unpack"),
        **common,
    )


def _pairs(kind: type[kinds.Env] | type[kinds.Label]) -> Callable[[_Line], Instruction]:
    def parse_it(one: _Line) -> Instruction:
        one.flags()
        return one.make(kind, pairs=split_pairs(one.name, one.rest, one.escape))

    return parse_it


def _text(kind: Callable[..., I], field: str) -> Callable[[_Line], Instruction]:
    def parse_it(one: _Line) -> Instruction:
        one.flags()
        return one.make(kind, **{field: one.one_argument()})

    return parse_it


def _arg(one: _Line) -> Arg:
    one.flags()
    return one.make(Arg, arguments=split_arguments(one.rest, one.escape))


def _expose(one: _Line) -> kinds.Expose:
    one.flags()
    return one.make(kinds.Expose, ports=one.some(tuple(sorted(split_gaps(one.rest)))))


def _volume(one: _Line) -> kinds.Volume:
    one.flags()
    paths = tuple(path.strip() for path in one.some(parse_list(one.rest)))
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string", token=one.rest)
    return one.make(kinds.Volume, paths=paths)


def _shell(one: _Line) -> kinds.Shell:
    one.flags()
    array = parse_array(one.rest)
    if array is None and one.rest:
        raise DockerfileError("SHELL requires the arguments to be in JSON form", token=one.rest)
    return one.make(kinds.Shell, shell=one.some(array or ()))


def _healthcheck(one: _Line) -> kinds.Healthcheck:
    kind, rest = split_instruction(one.rest)
    if not kind:
        raise DockerfileError("HEALTHCHECK requires at least one argument", token=one.keyword)
    if kind.upper() == "NONE":
        if rest:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments", token=rest)
        return one.make(kinds.Healthcheck, command=None)
    flags = one.flags()
    if kind.upper() != "CMD":
        raise DockerfileError(f"Unknown type {quoted(kind.upper())} in HEALTHCHECK (try CMD)", token=kind)
    command = parse_command(rest)
    if not command.args:
        raise DockerfileError("Missing command after HEALTHCHECK CMD", token=kind)
    return one.make(
        kinds.Healthcheck,
        command=command,
        interval=_interval(flags, "interval"),
        timeout=_interval(flags, "timeout"),
        start_period=_interval(flags, "start-period"),
        start_interval=_interval(flags, "start-interval"),
        retries=_retries(flags.text("retries")),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    try:
        value = parse_duration(text) if text else 0
    except ValueError as error:
        raise DockerfileError(str(error), token=f"--{name}") from error
    if value and value < _SHORTEST_NS:
        raise DockerfileError(f"Interval {quoted(name)} cannot be less than 1ms", token=f"--{name}")
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", text) or not -(1 << 31) <= int(text) < 1 << 31:
        raise DockerfileError(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax", token="--retries")
    if int(text) < 0:
        raise DockerfileError(f"--retries cannot be negative ({int(text)})", token="--retries")
    return int(text)


def _onbuild(one: _Line) -> kinds.OnBuild:
    if not one.rest:
        raise DockerfileError("ONBUILD requires at least one argument", token=one.keyword)
    one.flags()
    keyword, _ = split_instruction(one.rest)
    _check_trigger(keyword)
    trigger = parse_line(msgspec.structs.replace(one.line, text=one.rest, comments=()), one.escape)
    expression = one.rest + "".join(f"\n{document.body}{document.name}" for document in one.heredocs)
    return one.make(kinds.OnBuild, expression=expression, trigger=trigger)


def _check_trigger(keyword: str) -> None:
    name = keyword.upper()
    if name == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", token=keyword)
    if name in ("FROM", "MAINTAINER"):
        raise DockerfileError(f"{name} isn't allowed as an ONBUILD trigger", token=keyword)


_PARSERS: Final[dict[str, Callable[[_Line], Instruction]]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _command(kinds.Cmd),
    "COPY": _copy,
    "ENTRYPOINT": _command(kinds.Entrypoint),
    "ENV": _pairs(kinds.Env),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _pairs(kinds.Label),
    "MAINTAINER": _text(kinds.Maintainer, "maintainer"),
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _text(kinds.StopSignal, "signal"),
    "USER": _text(kinds.User, "user"),
    "VOLUME": _volume,
    "WORKDIR": _text(kinds.Workdir, "path"),
}
