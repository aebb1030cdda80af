"""ARG and ENV: which variables an instruction sees, what a RUN's environment is, and what of it its cache key knows.

Dockerfile reference, ARG. A stage's scope begins with its base's environment and grows with each ARG and ENV.
A stage on a stage of the same file simply goes on with that one's last scope: it inherits the arguments. An ENV always
wins over an ARG of its name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar, cast

import msgspec

from scow.build import instructions as kinds
from scow.build.dockerfile import Dockerfile
from scow.build.errors import DockerfileError, quoted
from scow.build.instructions import Arg, Instruction
from scow.build.mounts import Mount, resolve_mount
from scow.build.shell_words import WordError, Words
from scow.oci.platform import Platform

SOURCE_DATE_EPOCH: Final = "SOURCE_DATE_EPOCH"
OF_CONTEXT: Final = "context"
"""The value of SOURCE_DATE_EPOCH that means the time of the context: of its commit, or at its URL."""
PROXIES: Final = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
)
"""Arguments that RUN sees without an ARG: then neither the history nor a cache key knows them."""
BUILTIN: Final = (
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "BUILDKIT_DOCKERFILE_CHECK",
    SOURCE_DATE_EPOCH,
)
"""Arguments that mean something to the builder itself."""


def platform_arguments(build: Platform, target: Platform, stage: str = "") -> dict[str, str]:
    """The arguments that describe the platforms of the machine and of the image, and the stage that is built."""
    described = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        described[f"{prefix}PLATFORM"] = str(platform)
        described[f"{prefix}OS"] = platform.os
        described[f"{prefix}OSVERSION"] = platform.os_version
        described[f"{prefix}ARCH"] = platform.architecture
        described[f"{prefix}VARIANT"] = platform.variant
    described["TARGETSTAGE"] = stage or "default"
    return described


class Globals(msgspec.Struct, frozen=True, kw_only=True):
    """The scope before the first FROM: what FROM lines see, and where ARG without a value finds one."""

    values: Mapping[str, str]
    """Declared arguments and those of the platforms."""
    build_args: Mapping[str, str]
    """What the caller of the build gave, declared or not."""
    escape: str = "\\"

    def expand(self, text: str, instruction: Instruction | None = None) -> str:
        """`text` of a FROM line with variables replaced. Raises DockerfileError."""
        return _expand(Words(escape=self.escape), text, self.values, instruction)


def global_scope(
    dockerfile: Dockerfile, build_args: Mapping[str, str], build: Platform, target: Platform, stage: str = ""
) -> Globals:
    """Evaluate the ARG instructions before the first FROM. Raises DockerfileError.

    Build arguments win over defaults, and over what the platforms' arguments would be.
    """
    automatic = platform_arguments(build, target, stage)
    values = {name: build_args.get(name, value) for name, value in automatic.items()}
    words = Words(escape=dockerfile.directives.escape)
    for instruction in dockerfile.global_args:
        for argument in instruction.arguments:
            name = _expand(words, argument.name, values, instruction)
            if name in build_args:
                values[name] = build_args[name]
            elif argument.default is not None:
                values[name] = _expand(words, argument.default, values, instruction)
    return Globals(values=values, build_args=build_args, escape=dockerfile.directives.escape)


def source_date_default(dockerfile: Dockerfile, scope: Globals, target: int) -> str:
    """The value of the file's own `ARG SOURCE_DATE_EPOCH=...`, before the first FROM or in the target; "" without one.

    Raises DockerfileError.
    """
    if SOURCE_DATE_EPOCH in scope.values:
        return scope.values[SOURCE_DATE_EPOCH]
    found = ""
    for one in dockerfile.stages[target].instructions:
        for argument in one.arguments if isinstance(one, Arg) else ():
            if argument.name == SOURCE_DATE_EPOCH and argument.default is not None:
                found = scope.expand(argument.default, one)
    return found


def unused_build_args(dockerfile: Dockerfile, build_args: Iterable[str]) -> list[str]:
    """Build arguments that no ARG of the file declares and that have no meaning of their own, sorted."""
    declared = {argument.name for one in dockerfile.instructions if isinstance(one, Arg) for argument in one.arguments}
    automatic = platform_arguments(Platform(os="", architecture=""), Platform(os="", architecture=""))
    return sorted(set(build_args) - declared - set(PROXIES) - set(BUILTIN) - set(automatic))


I = TypeVar("I", bound=Instruction)  # noqa: E741


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """The variables at one place of a stage. Immutable: each ARG and ENV gives the next one."""

    globals: Globals
    env: Mapping[str, str] = {}
    """The environment of the image's config at this place."""
    arguments: Mapping[str, str | None] = {}
    """The arguments declared so far, in order; None for those that have no value."""

    @property
    def variables(self) -> dict[str, str]:
        """What `$name` stands for."""
        return {**self.effective_arguments, **self.env}

    @property
    def effective_arguments(self) -> dict[str, str]:
        """Declared arguments that have a value and that no ENV hides: with them a RUN's cache key has to be made."""
        return {name: value for name, value in self.arguments.items() if value is not None and name not in self.env}

    @property
    def proxies(self) -> dict[str, str]:
        """Predefined proxy arguments of the build that the file doesn't declare: a RUN sees them, nothing else does."""
        given = self.globals.build_args
        return {
            name: given[name]
            for name in PROXIES
            if name in given and name not in self.arguments and name not in self.env
        }

    @property
    def history_arguments(self) -> list[str]:
        """What the history says in front of a RUN's command: `|2`, `a=1`, `b=2`; nothing without arguments."""
        given = [f"{name}={value}" for name, value in self.effective_arguments.items()]
        return [f"|{len(given)}", *given] if given else []

    def with_env(self, env: Sequence[str] | None) -> "Scope":
        """The scope where the config's environment is `env`."""
        pairs = (entry.partition("=") for entry in env or ())
        return msgspec.structs.replace(self, env={name: value for name, _, value in pairs})

    def declared(self, instruction: Arg) -> "Scope":
        """The scope after an ARG instruction. Raises DockerfileError."""
        arguments = dict(self.arguments)
        words = Words(escape=self.globals.escape)
        for argument in instruction.arguments:
            seen = {**_known(arguments), **self.env}
            name = _expand(words, argument.name, seen, instruction)
            if not name:
                raise DockerfileError("ARG names can not be blank", lines=instruction.lines, token=argument.name)
            value: str | None
            if name in self.globals.build_args:
                value = self.globals.build_args[name]
            elif argument.default is not None:
                value = _expand(words, argument.default, seen, instruction)
            else:
                value = self.globals.values.get(name, arguments.get(name))
            arguments[name] = value
        return msgspec.structs.replace(self, arguments=arguments)

    def shown(self, instruction: Arg) -> str:
        """An ARG as docker's history shows it: with the file's defaults. Raises DockerfileError."""
        scope, words = self, [Arg.NAME]
        for each in instruction.arguments:
            words.append(
                each.name if each.default is None else f"{each.name}={scope.expand(each.default, instruction)}"
            )
            scope = scope.declared(msgspec.structs.replace(instruction, arguments=(each,)))
        return " ".join(words)

    def expand(self, text: str, instruction: Instruction | None = None) -> str:
        """`text` with variables replaced. Raises DockerfileError."""
        return _expand(Words(escape=self.globals.escape), text, self.variables, instruction)

    def expanded(self, instruction: I) -> I:
        """COPY, ADD, and the words of the other instructions that builds expand themselves, with variables replaced.

        Of COPY and ADD that is everything but `--from`, heredocs included unless their delimiter is quoted. RUN is
        returned as it is: its mounts are `mounts_of`. ENV, LABEL, EXPOSE, VOLUME, USER, WORKDIR and STOPSIGNAL are
        left to `config_changes.apply`, which wants `variables`. Raises DockerfileError.
        """
        if not isinstance(instruction, kinds.Copy):
            return instruction

        def each(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(self.expand(text, instruction) for text in texts)

        changed: dict[str, object] = {
            "sources": each(instruction.sources),
            "inline": tuple(self._filled(document, instruction) for document in instruction.inline),
            "destination": self.expand(instruction.destination, instruction),
            "chown": self.expand(instruction.chown, instruction),
            "chmod": self.expand(instruction.chmod, instruction),
            "exclude": each(instruction.exclude),
        }
        if isinstance(instruction, kinds.Add):
            changed["checksum"] = self.expand(instruction.checksum, instruction)
        return cast(I, msgspec.structs.replace(instruction, **changed))

    def mounts_of(self, instruction: kinds.Run) -> tuple[Mount, ...]:
        """The mounts of a RUN, checked, with variables replaced. Raises DockerfileError."""
        try:
            return tuple(
                resolve_mount(flag, lambda text: self.expand(text, instruction)) for flag in instruction.mounts
            )
        except DockerfileError as error:
            error.lines = error.lines or instruction.lines
            raise

    def _filled(self, document: kinds.Heredoc, instruction: Instruction) -> kinds.Heredoc:
        if not document.expand:
            return msgspec.structs.replace(document, body=document.text, strip_tabs=False)
        # A heredoc's quotes are part of its text; the escape character is the backslash whatever the directive says.
        body = _expand(Words(plain_quotes=True), document.text, self.variables, instruction)
        return msgspec.structs.replace(document, body=body, strip_tabs=False, expand=False)


def _known(arguments: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in arguments.items() if value is not None}


def _expand(words: Words, text: str, variables: Mapping[str, str], instruction: Instruction | None) -> str:
    if "$" not in text and words.escape not in text and (words.plain_quotes or ("'" not in text and '"' not in text)):
        return text
    try:
        return words.expand(text, variables).text
    except WordError as error:
        raise DockerfileError(
            f"failed to process {quoted(text)}: {error}", lines=instruction.lines if instruction else None, token=text
        ) from error
