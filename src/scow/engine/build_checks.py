"""What a build says about its Dockerfile besides building it: findings of checks, arguments that nobody used."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from scow.build.arguments import global_scope, unused_build_args
from scow.build.checks import Finding
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile
from scow.build.ignore import BadPattern, Ignore, ignore_files, read_patterns
from scow.build.lint import KnownBase, lint, refuse_findings
from scow.build.outline import outline_of, outline_text, targets_of, targets_text
from scow.build.plan import context_name, plan
from scow.build.tools import Options
from scow.errors import InvalidArgument
from scow.oci.platform import host_platform
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]
_FOUND: Final = {0: "no warnings found.", 1: "1 warning has been found!"}


class BuildChecks:
    """The checks of one build."""

    def __init__(self, dockerfile: Dockerfile, options: Options, ignore: Ignore | None) -> None:
        """Raises DockerfileError for a bad ARG before the first FROM."""
        self._file = dockerfile
        self._options = options
        self._ignore = ignore
        host = host_platform()
        self._scope = global_scope(dockerfile, options.build_args, host, options.platform or host, options.target)

    def find(self, bases: Mapping[int, KnownBase] | None = None) -> tuple[Finding, ...]:
        """The findings; `bases` are what is known of stages' bases. Raises DockerfileError for a bad directive."""
        return lint(self._file, self._scope, bases=bases, ignore=self._ignore)

    def refuse(self) -> None:
        """Raise LintFailed if there are findings and the file says that these end a build."""
        refuse_findings(self._file, self._scope, self.find())

    def warn(self, emit: Emit, bases: Mapping[int, KnownBase]) -> None:
        """Tell of findings and unused arguments, a line each, as docker's classic builder tells of what it warns of."""
        for finding in self.find(bases):
            emit(ProgressMessage(stream=f"[Warning] {finding}\n"))
        if unused := unused_build_args(self._file, self._options.build_args):
            emit(ProgressMessage(stream=f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n"))

    def describe(self, call: str, emit: Emit, contexts: Iterable[str] = ()) -> None:
        """Tell what the file offers, `targets` or the `outline` of one, as text and for programs.

        Raises InvalidArgument for anything else, DockerfileError.
        """
        if call == "targets":
            targets = targets_of(self._file)
            text, value = targets_text(targets), msgspec.to_builtins({"Targets": targets})
        elif call == "outline":
            platform = self._options.platform or host_platform()
            planned = plan(
                self._file,
                self._scope,
                target=self._options.target,
                platform=platform,
                contexts=frozenset(map(context_name, contexts)),
            )
            outline = outline_of(self._file, planned, self._scope)
            text, value = outline_text(outline), msgspec.to_builtins({"Outline": outline})
        else:
            raise InvalidArgument(f"unknown call {call!r}: there are check, outline and targets")
        emit(ProgressMessage(stream=text))
        emit(ProgressMessage(aux=value))

    def report(self, emit: Emit) -> None:
        """Tell of the findings with their lines, and how many there are: all that is done where only checks run."""
        findings = self.find()
        for finding in findings:
            emit(ProgressMessage(stream=f"{finding.report(self._file)}\n\n"))
        count = _FOUND.get(len(findings), f"{len(findings)} warnings have been found!")
        emit(ProgressMessage(stream=f"Check complete, {count}\n"))
        emit(ProgressMessage(aux={"Findings": len(findings)}))


def ignore_of(context: Context, dockerfile: str) -> Ignore | None:
    """What the context's ignore file says, the Dockerfile's own first; None without one. Raises InvalidArgument."""
    for name in ignore_files(dockerfile):
        data = context.read(name)
        if data is not None:
            try:
                return Ignore(read_patterns(data.decode("utf-8", "surrogateescape")))
            except BadPattern as error:
                raise InvalidArgument(f"error checking context: {error}") from error
    return None
