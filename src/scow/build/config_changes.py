"""What instructions do to an image's config: in a build, and as the `changes` of commit and import."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from scow.build import instructions as kinds
from scow.build.dockerfile import parse_line
from scow.build.errors import DockerfileError, quoted
from scow.build.instructions import DEFAULT_SHELL, Instruction
from scow.build.lines import logical_lines, physical_lines
from scow.build.paths import normalize_workdir
from scow.build.ports import parse_exposed
from scow.build.shell_words import Expansion, WordError, Words
from scow.build.syntax import split_instruction
from scow.errors import InvalidArgument
from scow.linux.signals import parse_signal
from scow.oci.image_config import ExecConfig, Healthcheck

CHANGES: Final = frozenset(
    [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)
"""The instructions that commit and import take, as dockerd does: SHELL isn't among them."""


def apply_changes(changes: Sequence[str], config: ExecConfig) -> ExecConfig:
    """Apply what `commit --change` and `import --change` ask for, in order.

    Variables are those of the config as it is when their instruction's turn comes. An ENTRYPOINT clears the config's
    CMD unless a CMD stood before it. Raises DockerfileError, an InvalidArgument, with docker's words.
    """
    source = physical_lines("\n".join(changes))
    cmd_set = False
    try:
        for line in logical_lines(source, "\\"):
            keyword, _ = split_instruction(line.text)
            if keyword.upper() not in CHANGES:
                raise DockerfileError(f"{keyword.lower()} is not a valid change command")
            instruction = parse_line(line, "\\")
            config = apply(instruction, config, cmd_set=cmd_set)
            cmd_set = cmd_set or isinstance(instruction, kinds.Cmd)
    except DockerfileError as error:  # docker tells of changes without a line
        raise DockerfileError(error.why, token=error.token, suggestion=error.suggestion) from error
    return config


def apply(
    instruction: Instruction,
    config: ExecConfig,
    variables: Mapping[str, str] | None = None,
    *,
    escape: str = "\\",
    cmd_set: bool = False,
) -> ExecConfig:
    """The config after an instruction; the same object if the instruction changes none (RUN, COPY, ARG, ...).

    `variables` are what `$name` stands for, arguments included (see `arguments.Scope`); the config's own environment if
    None. `cmd_set` tells whether a CMD stood before in this stage: then ENTRYPOINT leaves the config's CMD. A WORKDIR
    changes the config only; that the directory has to exist afterwards is the caller's work.
    Raises DockerfileError for values that are no ports, signals or paths once variables are replaced.
    """
    change = _CHANGES.get(type(instruction))
    if change is None:
        return config
    words = _Expander(environment(config) if variables is None else variables, escape)
    try:
        return change(instruction, config, words, cmd_set)
    except DockerfileError as error:
        error.lines = error.lines or instruction.lines
        raise
    except WordError as error:
        raise DockerfileError(
            f"failed to process {quoted(words.current)}: {error}", lines=instruction.lines, token=words.current
        ) from error


def environment(config: ExecConfig) -> dict[str, str]:
    """The config's environment by name."""
    return dict(_split(entry) for entry in config.env or ())


def set_variable(env: Sequence[str], name: str, value: str) -> list[str]:
    """An environment with `name` set: in its old place if it was there, else at the end."""
    entry, result, placed = f"{name}={value}", [], False
    for old in env:
        if _split(old)[0] == name:
            if not placed:
                result.append(entry)
            placed = True
        else:
            result.append(old)
    return result if placed else [*result, entry]


def shell_of(config: ExecConfig) -> tuple[str, ...]:
    """The shell that runs commands in shell form."""
    return tuple(config.shell) if config.shell else DEFAULT_SHELL


def _split(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


class _Expander:
    """Replaces variables, and remembers the word it is at, for messages."""

    def __init__(self, variables: Mapping[str, str], escape: str) -> None:
        self._variables = variables
        self._words = Words(escape=escape)
        self.current = ""

    def _expand(self, text: str) -> Expansion:
        self.current = text
        return self._words.expand(text, self._variables)

    def text(self, text: str) -> str:
        return self._expand(text).text

    def words(self, text: str) -> tuple[str, ...]:
        return self._expand(text).words


def _env(one: kinds.Env, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    env: Sequence[str] = config.env or ()
    for pair in one.pairs:
        name = words.text(pair.key)
        if not name:
            raise DockerfileError("ENV names can not be blank", token=pair.key)
        env = set_variable(env, name, words.text(pair.value))
    return msgspec.structs.replace(config, env=list(env))


def _label(one: kinds.Label, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    labels = dict(config.labels or {})
    for pair in one.pairs:
        labels[words.text(pair.key)] = words.text(pair.value)
    return msgspec.structs.replace(config, labels=labels)


def _cmd(one: kinds.Cmd, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    return msgspec.structs.replace(config, cmd=list(one.command.argv(shell_of(config))), args_escaped=False)


def _entrypoint(one: kinds.Entrypoint, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    return msgspec.structs.replace(
        config,
        entrypoint=list(one.command.argv(shell_of(config))) or None,
        cmd=config.cmd if cmd_set else None,
    )


def _expose(one: kinds.Expose, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    ports = dict(config.exposed_ports or {})
    for written in one.ports:
        for word in words.words(written):
            try:
                ports.update({key: {} for key in parse_exposed(word)})
            except ValueError as error:
                raise DockerfileError(str(error), token=written) from error
    return msgspec.structs.replace(config, exposed_ports=ports)


def _volume(one: kinds.Volume, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    volumes = dict(config.volumes or {})
    for written in one.paths:
        path = words.text(written)
        if not path:
            raise DockerfileError("VOLUME specified can not be an empty string", token=written)
        volumes[path] = {}
    return msgspec.structs.replace(config, volumes=volumes)


def _user(one: kinds.User, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    return msgspec.structs.replace(config, user=words.text(one.user))


def _workdir(one: kinds.Workdir, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    path = words.text(one.path)
    if not path:
        raise DockerfileError("cannot normalize nothing", token=one.path)
    return msgspec.structs.replace(config, working_dir=normalize_workdir(config.working_dir, path))


def _stop_signal(one: kinds.StopSignal, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    signal = words.text(one.signal)
    try:
        parse_signal(signal)
    except InvalidArgument as error:
        raise DockerfileError(str(error), token=one.signal) from error
    return msgspec.structs.replace(config, stop_signal=signal)


def _shell(one: kinds.Shell, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    return msgspec.structs.replace(config, shell=list(one.shell))


def _healthcheck(one: kinds.Healthcheck, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    if one.command is None:
        return msgspec.structs.replace(config, healthcheck=Healthcheck(test=["NONE"]))
    check = Healthcheck(
        test=["CMD-SHELL" if one.command.shell_form else "CMD", *one.command.args],
        interval=one.interval,
        timeout=one.timeout,
        start_period=one.start_period,
        start_interval=one.start_interval,
        retries=one.retries,
    )
    return msgspec.structs.replace(config, healthcheck=check)


def _onbuild(one: kinds.OnBuild, config: ExecConfig, words: _Expander, cmd_set: bool) -> ExecConfig:
    return msgspec.structs.replace(config, on_build=[*(config.on_build or ()), one.expression])


_CHANGES: Final[dict[type[Instruction], Callable[..., ExecConfig]]] = {
    kinds.Cmd: _cmd,
    kinds.Entrypoint: _entrypoint,
    kinds.Env: _env,
    kinds.Expose: _expose,
    kinds.Healthcheck: _healthcheck,
    kinds.Label: _label,
    kinds.OnBuild: _onbuild,
    kinds.Shell: _shell,
    kinds.StopSignal: _stop_signal,
    kinds.User: _user,
    kinds.Volume: _volume,
    kinds.Workdir: _workdir,
}
