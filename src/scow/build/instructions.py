"""The instructions of a Dockerfile as data: what was written, not yet with variables replaced.

Every text that may contain variables is kept as written; `arguments` replaces them when the instruction's turn comes.
"""

from typing import ClassVar, Final

import msgspec

from scow.build.errors import Lines
from scow.build.mounts import MountFlag

DEFAULT_SHELL: Final = ("/bin/sh", "-c")
"""The shell of the shell form, where neither SHELL nor the base image name another."""


class Heredoc(msgspec.Struct, frozen=True, kw_only=True):
    """A here-document: the lines up to a delimiter."""

    name: str
    """The delimiter."""
    body: str
    """The lines as written, each with its end."""
    expand: bool = True
    """Whether variables are replaced in it: they aren't if any part of the delimiter is quoted."""
    strip_tabs: bool = False
    """`<<-`: tabs in front of the lines don't count."""

    @property
    def text(self) -> str:
        """The content: the lines, without the tabs in front of them if so asked."""
        if not self.strip_tabs:
            return self.body
        return "".join(line.lstrip("\t") for line in self.body.splitlines(keepends=True))


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What RUN, CMD, ENTRYPOINT and HEALTHCHECK run, in one of the two forms."""

    args: tuple[str, ...]
    """The array of the exec form; the one text of the shell form (none if nothing was written)."""
    shell_form: bool
    heredocs: tuple[Heredoc, ...] = ()

    def argv(self, shell: tuple[str, ...] = DEFAULT_SHELL) -> tuple[str, ...]:
        """What is executed: the array, or the shell with the text as its last argument."""
        return (*shell, *self.args) if self.shell_form else self.args


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """What all instructions have."""

    NAME: ClassVar[str] = ""
    """The instruction in capitals: `COPY`."""

    keyword: str
    """The instruction as written: `Copy`."""
    text: str
    """The whole instruction on one line, continuations joined, without its heredocs: `Copy a.txt /b/`."""
    lines: Lines
    flags: tuple[str, ...] = ()
    """The flags as written: `--from=build`."""
    comments: tuple[str, ...] = ()
    """The comment lines right above it."""


class From(Instruction, frozen=True, kw_only=True):
    """`FROM [--platform=P] IMAGE [AS NAME]`."""

    NAME: ClassVar[str] = "FROM"

    image: str
    platform: str = ""
    alias: str = ""
    """The stage's name in lower case; empty if it has none."""
    written_alias: str = ""
    as_keyword: str = ""


class Argument(msgspec.Struct, frozen=True):
    """One name that ARG declares; `default` is None if it gives no default."""

    name: str
    default: str | None = None


class Arg(Instruction, frozen=True, kw_only=True):
    """`ARG NAME[=DEFAULT]...`."""

    NAME: ClassVar[str] = "ARG"

    arguments: tuple[Argument, ...]


class Pair(msgspec.Struct, frozen=True):
    """A key and its value, quotes and variables as written."""

    key: str
    value: str
    legacy: bool = False
    """Written as `KEY value`, without an equals sign."""


class Env(Instruction, frozen=True, kw_only=True):
    """`ENV KEY=VALUE...`."""

    NAME: ClassVar[str] = "ENV"

    pairs: tuple[Pair, ...]


class Label(Instruction, frozen=True, kw_only=True):
    """`LABEL KEY=VALUE...`."""

    NAME: ClassVar[str] = "LABEL"

    pairs: tuple[Pair, ...]


class Run(Instruction, frozen=True, kw_only=True):
    """`RUN [--mount=...] [--network=...] [--security=...] [--device=...] COMMAND`."""

    NAME: ClassVar[str] = "RUN"

    command: Command
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"
    """`default`, `none` or `host`."""
    security: str = "sandbox"
    """`sandbox` or `insecure`."""
    devices: tuple[str, ...] = ()


class Cmd(Instruction, frozen=True, kw_only=True):
    """`CMD COMMAND`."""

    NAME: ClassVar[str] = "CMD"

    command: Command


class Entrypoint(Instruction, frozen=True, kw_only=True):
    """`ENTRYPOINT COMMAND`."""

    NAME: ClassVar[str] = "ENTRYPOINT"

    command: Command


class Copy(Instruction, frozen=True, kw_only=True):
    """`COPY [FLAGS] SOURCE... DESTINATION`."""

    NAME: ClassVar[str] = "COPY"

    sources: tuple[str, ...]
    """Paths and patterns (for ADD: URLs too), without heredocs."""
    inline: tuple[Heredoc, ...] = ()
    """Files whose content stands in the Dockerfile; their names are the delimiters."""
    destination: str
    source_stage: str = ""
    """`--from`: a stage by name or number, a named context or an image; empty for the build context."""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Add(Copy, frozen=True, kw_only=True):
    """`ADD [FLAGS] SOURCE... DESTINATION`."""

    NAME: ClassVar[str] = "ADD"

    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None
    """None: local archives are unpacked, remote ones aren't."""


class Expose(Instruction, frozen=True, kw_only=True):
    """`EXPOSE PORT[/PROTOCOL]...`."""

    NAME: ClassVar[str] = "EXPOSE"

    ports: tuple[str, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    """`VOLUME PATH...`."""

    NAME: ClassVar[str] = "VOLUME"

    paths: tuple[str, ...]


class User(Instruction, frozen=True, kw_only=True):
    """`USER USER[:GROUP]`."""

    NAME: ClassVar[str] = "USER"

    user: str


class Workdir(Instruction, frozen=True, kw_only=True):
    """`WORKDIR PATH`."""

    NAME: ClassVar[str] = "WORKDIR"

    path: str


class StopSignal(Instruction, frozen=True, kw_only=True):
    """`STOPSIGNAL SIGNAL`."""

    NAME: ClassVar[str] = "STOPSIGNAL"

    signal: str


class Shell(Instruction, frozen=True, kw_only=True):
    """`SHELL ["PROGRAM", "ARGUMENT"...]`."""

    NAME: ClassVar[str] = "SHELL"

    shell: tuple[str, ...]


class Maintainer(Instruction, frozen=True, kw_only=True):
    """`MAINTAINER NAME`."""

    NAME: ClassVar[str] = "MAINTAINER"

    maintainer: str


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """`HEALTHCHECK [OPTIONS] CMD COMMAND`, or `HEALTHCHECK NONE` (then `command` is None). Durations in nanoseconds."""

    NAME: ClassVar[str] = "HEALTHCHECK"

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class OnBuild(Instruction, frozen=True, kw_only=True):
    """`ONBUILD INSTRUCTION`."""

    NAME: ClassVar[str] = "ONBUILD"

    expression: str
    """The trigger as it is kept in an image's config, heredocs with it."""
    trigger: Instruction
    """The trigger parsed, to be checked; what is executed later is parsed from the config."""


NAMES: Final = (
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)
"""All instructions."""
