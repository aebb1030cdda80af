"""Docker's build checks: what in a Dockerfile is allowed, and probably not what was meant.

`lint` reads all stages, needed or not, and pulls nothing. What base images hold is told by the caller if it knows;
where it doesn't, a variable counts as undefined only if it looks like a misspelling of a defined one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from scow.build import instructions as kinds
from scow.build.arguments import Globals, Scope, global_scope
from scow.build.checks import Finding, Selection, parse_selection
from scow.build.dockerfile import Dockerfile, Stage
from scow.build.errors import DockerfileError, Lines, quoted
from scow.build.ignore import Ignore
from scow.build.instructions import Arg, From, Instruction
from scow.build.paths import normalize_workdir
from scow.build.shell_words import Expansion, WordError, Words
from scow.build.suggest import did_you_mean, nearest
from scow.errors import InvalidArgument
from scow.oci.platform import InvalidPlatform, Platform, parse_platform
from scow.oci.reference import InvalidReference, parse_reference

CHECK_ARGUMENT: Final = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that says which checks run, in place of the directive."""
_SECRET: Final = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_HARMLESS: Final = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_RESERVED: Final = ("context", "scratch")
_ONCE: Final = (kinds.Cmd, kinds.Entrypoint, kinds.Healthcheck)
_NO_VARIABLES: Final = frozenset(["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"])


class LintFailed(InvalidArgument):
    """Checks found something, and the file says that this is to end the build."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        rules = ", ".join(sorted({finding.rule for finding in findings}))
        super().__init__(f"lint violation found for rules: {rules}")
        self.findings = tuple(findings)


class KnownBase(msgspec.Struct, frozen=True):
    """What the base image of a stage turned out to be."""

    env: Mapping[str, str]
    platform: Platform | None = None
    """Which platform it is for; None if nobody asked for one."""


def lint(
    dockerfile: Dockerfile,
    scope: Globals,
    *,
    bases: Mapping[int, KnownBase] | None = None,
    ignore: Ignore | None = None,
) -> tuple[Finding, ...]:
    """What the checks find, in the order of the file.

    `bases` are those of the stages with these indexes; `ignore` is what keeps files out of the build context. Raises
    DockerfileError if the `check` directive is malformed.
    """
    selection = selection_of(dockerfile, scope)
    found = _Linter(dockerfile, scope, bases or {}, ignore).run()
    return tuple(sorted((one for one in found if selection.runs(one.rule)), key=lambda one: one.lines.start))


def selection_of(dockerfile: Dockerfile, scope: Globals) -> Selection:
    """The checks that a build runs. Raises DockerfileError."""
    given = scope.build_args.get(CHECK_ARGUMENT)
    if given is not None:
        return parse_selection(given)
    number = dockerfile.directives.lines.get("check", 1)
    try:
        return parse_selection(dockerfile.directives.check, Lines(number, number))
    except DockerfileError as error:
        raise error.located(dockerfile.name, dockerfile.source) from error.__cause__


def refuse_findings(dockerfile: Dockerfile, scope: Globals, findings: Sequence[Finding]) -> None:
    """Raise LintFailed if there are findings and `check=error=true` says that they count as errors."""
    if findings and selection_of(dockerfile, scope).error:
        raise LintFailed(findings)


class _StageState(msgspec.Struct):
    """What is known at the place where the checks are."""

    scope: Scope
    known: bool
    """Whether the base's environment is known."""
    workdir_set: bool = False
    shell_set: bool = False


class _Linter:
    def __init__(
        self,
        dockerfile: Dockerfile,
        scope: Globals,
        bases: Mapping[int, KnownBase],
        ignore: Ignore | None,
    ) -> None:
        self._file = dockerfile
        self._globals = scope
        self._bases = bases
        self._ignore = ignore
        self._words = Words(escape=dockerfile.directives.escape)
        self._found: list[Finding] = []
        self._ends: list[_StageState] = []

    def run(self) -> list[Finding]:
        for number in self._file.empty_continuations:
            self._add("NoEmptyContinuation", "Empty continuation line", Lines(number, number))
        self._casing()
        self._stage_names()
        self._default_bases()
        for one in self._file.global_args:
            self._argument(one)
        for stage in self._file.stages:
            self._from(stage)
            state = self._begin(stage)
            self._once(stage)
            for instruction in stage.instructions:
                self._instruction(instruction, state)
            self._ends.append(state)
        return self._found

    def _add(self, rule: str, message: str, lines: Lines) -> None:
        self._found.append(Finding(rule=rule, message=message, lines=lines))

    def _expand(self, text: str, variables: Mapping[str, str]) -> Expansion:
        try:
            return self._words.expand(text, variables)
        except WordError:
            return Expansion(text)  # the build will say what is wrong

    def _casing(self) -> None:
        of_stages = [one for stage in self._file.stages for one in (stage.base, *stage.instructions)]
        words = [one.keyword for one in of_stages]
        lower = sum(word.islower() for word in words) > sum(word.isupper() for word in words)
        for one in of_stages:
            if one.keyword != (one.keyword.lower() if lower else one.keyword.upper()):
                wanted = "lowercase" if lower else "uppercase"
                message = f"Command '{one.keyword}' should match the case of the command majority ({wanted})"
                self._add("ConsistentInstructionCasing", message, one.lines)

    def _stage_names(self) -> None:
        seen: set[str] = set()
        for stage in self._file.stages:
            written, lines = stage.base, stage.base.lines
            if written.written_alias != written.alias:
                message = f"Stage name '{written.written_alias}' should be lowercase"
                self._add("StageNameCasing", message, lines)
            if stage.name in _RESERVED:
                message = f"Stage name should not use the same name as reserved stage {quoted(stage.name)}"
                self._add("ReservedStageName", message, lines)
            if stage.name in seen:
                message = f"Duplicate stage name {quoted(stage.name)}, stage names should be unique"
                self._add("DuplicateStageName", message, lines)
            seen.update(filter(None, [stage.name]))
            same = {(True, False): str.islower, (False, True): str.isupper}
            fits = same.get((written.keyword.islower(), written.keyword.isupper()))
            if written.as_keyword and fits and not fits(written.as_keyword):
                message = f"'{written.as_keyword}' and '{written.keyword}' keywords' casing do not match"
                self._add("FromAsCasing", message, lines)

    def _default_bases(self) -> None:
        """Whether bases are valid where nobody gives build arguments."""
        automatic = Platform(os="linux", architecture="amd64")
        try:
            defaults = global_scope(self._file, {}, automatic, automatic)
        except DockerfileError:
            return
        for stage in self._file.stages:
            if "$" not in stage.base.image:
                continue
            try:
                parse_reference(self._expand(stage.base.image, defaults.values).text)
            except InvalidReference:
                message = f"Default value for ARG {stage.base.image} results in empty or invalid base image name"
                self._add("InvalidDefaultArgInFrom", message, stage.base.lines)

    def _from(self, stage: Stage) -> None:
        written = stage.base
        declared = {argument.name for one in self._file.global_args for argument in one.arguments}
        names = sorted({*declared, *self._globals.values})
        for text in (written.image, written.platform):
            for name in sorted(self._expand(text, self._globals.values).unset - declared):
                suggestion = did_you_mean(nearest(name, names, same_case=True))
                message = f"FROM argument '{name}' is not declared{suggestion}"
                self._add("UndefinedArgInFrom", message, written.lines)
        if written.platform:
            self._platform(written)
        if stage.name:
            self._description("FROM", [stage.name], written)

    def _platform(self, written: From) -> None:
        expansion = self._expand(written.platform, self._globals.values)
        if expansion.used == {"TARGETPLATFORM"} and not expansion.unset:
            if expansion.text == self._globals.values.get("TARGETPLATFORM"):
                message = f"Setting platform to predefined {written.platform} in FROM is redundant as this is the "
                self._add("RedundantTargetPlatform", message + "default behavior", written.lines)
        elif not expansion.used:
            try:
                platform = parse_platform(expansion.text)
            except InvalidPlatform:
                return
            if platform.os not in written.alias and platform.architecture not in written.alias:
                message = f"FROM --platform flag should not use constant value {quoted(expansion.text)}"
                self._add("FromPlatformFlagConstDisallowed", message, written.lines)

    def _description(self, keyword: str, names: Sequence[str], one: Instruction) -> None:
        if one.comments and one.comments[-1].split(" ")[0] not in names:
            shown = names[0] if len(names) == 1 else "<arg_key>"
            message = f"Comment for {keyword} should follow the format: `# {shown} <description>`"
            self._add("InvalidDefinitionDescription", message, one.lines)

    def _begin(self, stage: Stage) -> _StageState:
        image = self._expand(stage.base.image, self._globals.values).text
        for before in reversed(self._file.stages[: stage.index]):
            if before.name and before.name == image.lower():
                return msgspec.structs.replace(self._ends[before.index])
        base = self._bases.get(stage.index)
        if base is None:
            scope = Scope(globals=self._globals, env={"PATH": ""})
            return _StageState(scope=scope, known=image == "scratch")
        if base.platform is not None:
            self._base_platform(stage.base, image, base.platform)
        return _StageState(scope=Scope(globals=self._globals, env=base.env), known=True)

    def _base_platform(self, written: From, image: str, actual: Platform) -> None:
        try:
            expected = parse_platform(self._expand(written.platform or "$TARGETPLATFORM", self._globals.values).text)
        except InvalidPlatform:
            return
        if (expected.os, expected.architecture) != (actual.os, actual.architecture):
            message = f"Base image {image} was pulled with platform {quoted(str(actual))}, "
            message += f"expected {quoted(str(expected))} for current build"
            self._add("InvalidBaseImagePlatform", message, written.lines)

    def _once(self, stage: Stage) -> None:
        last: dict[type[Instruction], Instruction] = {}
        for one in stage.instructions:
            if isinstance(one, _ONCE):
                before = last.get(type(one))
                if before is not None:
                    message = f"Multiple {before.keyword} instructions should not be used in the same stage "
                    self._add(
                        "MultipleInstructionsDisallowed",
                        message + "because only the last one will be used",
                        before.lines,
                    )
                last[type(one)] = one

    def _instruction(self, one: Instruction, state: _StageState) -> None:
        variables = state.scope.variables
        self._undefined(one, variables, state)
        match one:
            case Arg():
                self._argument(one)
                try:
                    state.scope = state.scope.declared(one)
                except DockerfileError:
                    return
            case kinds.Env() | kinds.Label():
                self._pairs(one, variables, state)
            case kinds.Cmd() | kinds.Entrypoint():
                if one.command.shell_form and not state.shell_set:
                    message = f"JSON arguments recommended for {one.keyword} to prevent unintended behavior related to "
                    self._add("JSONArgsRecommended", message + "OS signals", one.lines)
            case kinds.Shell():
                state.shell_set = True
            case kinds.Maintainer():
                message = "Maintainer instruction is deprecated in favor of using label"
                self._add("MaintainerDeprecated", message, one.lines)
            case kinds.Workdir():
                path = self._expand(one.path, variables).text
                if not path.startswith("/") and not state.workdir_set:
                    message = f"Relative workdir {quoted(path)} can have unexpected results if the base image changes"
                    self._add("WorkdirRelativePath", message, one.lines)
                state.workdir_set = True
            case kinds.Expose():
                self._ports(one, variables)
            case kinds.Copy():
                self._copied(one, variables)
            case _:
                pass

    def _argument(self, one: Arg) -> None:
        for argument in one.arguments:
            self._secret("ARG", argument.name, one)
        self._description("ARG", [argument.name for argument in one.arguments], one)

    def _secret(self, keyword: str, name: str, one: Instruction) -> None:
        if _SECRET.search(name) and not _HARMLESS.search(name):
            message = f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quoted(name)})"
            self._add("SecretsUsedInArgOrEnv", message, one.lines)

    def _pairs(self, one: kinds.Env | kinds.Label, variables: Mapping[str, str], state: _StageState) -> None:
        for pair in one.pairs:
            if pair.legacy:
                word = one.keyword
                message = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
                self._add("LegacyKeyValueFormat", message, one.lines)
        if isinstance(one, kinds.Env):
            env = dict(state.scope.env)
            for pair in one.pairs:
                name = self._expand(pair.key, variables).text
                self._secret("ENV", name, one)
                env[name] = self._expand(pair.value, variables).text
            state.scope = msgspec.structs.replace(state.scope, env=env)

    def _ports(self, one: kinds.Expose, variables: Mapping[str, str]) -> None:
        for written in one.ports:
            for port in self._expand(written, variables).words:
                if ":" in port:
                    message = "EXPOSE instruction should not define an IP address or host-port mapping, found "
                    self._add("ExposeInvalidFormat", f"{message}'{port}'", one.lines)
                protocol = port.partition("/")[2]
                if protocol != protocol.lower():
                    message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    self._add("ExposeProtoCasing", message, one.lines)

    def _copied(self, one: kinds.Copy, variables: Mapping[str, str]) -> None:
        # With patterns that take files back in, nobody can tell from a source alone whether it is there.
        if one.source_stage or self._ignore is None or self._ignore.has_exclusions:
            return
        for written in one.sources:
            source = self._expand(written, variables).text
            if source.startswith(("http://", "https://", "git@", "git://", "ssh://")):
                continue
            path = normalize_workdir("/", source).lstrip("/")
            if self._ignore.excludes(path):
                command = "Add" if isinstance(one, kinds.Add) else "Copy"
                message = f"Attempting to {command} file {quoted(path)} that is excluded by .dockerignore"
                self._add("CopyIgnoredFile", message, one.lines)

    def _undefined(self, one: Instruction, variables: Mapping[str, str], state: _StageState) -> None:
        missing: set[str] = set()
        for text in _texts(one):
            missing |= self._expand(text, variables).unset
        if isinstance(one, kinds.Copy):
            for document in one.inline:
                if document.expand:
                    try:
                        missing |= Words(plain_quotes=True).expand(document.text, variables).unset
                    except WordError:
                        continue
        names = sorted({*variables, *state.scope.arguments})
        for name in sorted(missing - set(state.scope.arguments) - _NO_VARIABLES):
            suggestion = nearest(name, names, same_case=True)
            if state.known or suggestion:
                shown = did_you_mean(f"${suggestion}" if suggestion else None)
                self._add("UndefinedVar", f"Usage of undefined variable '${name}'{shown}", one.lines)


def _texts(one: Instruction) -> Iterator[str]:
    """The texts of an instruction in which variables are replaced."""
    match one:
        case kinds.Copy():
            yield from (*one.sources, one.destination, one.chown, one.chmod, *one.exclude)
        case kinds.Env() | kinds.Label():
            for pair in one.pairs:
                yield from (pair.key, pair.value)
        case Arg():
            yield from _defaults(one)
        case kinds.Expose():
            yield from one.ports
        case kinds.Volume():
            yield from one.paths
        case kinds.User():
            yield one.user
        case kinds.Workdir():
            yield one.path
        case kinds.StopSignal():
            yield one.signal
        case kinds.Run():
            yield from (value for flag in one.mounts for _, value in flag.options if value)
        case _:
            return


def _defaults(one: Arg) -> Iterable[str]:
    return [argument.default for argument in one.arguments if argument.default is not None]
