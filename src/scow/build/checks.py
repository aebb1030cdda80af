"""The build checks by name: what they are about, and which of them a Dockerfile's `check` directive lets run."""

from typing import Final

import msgspec

from scow.build.dockerfile import Dockerfile
from scow.build.errors import DockerfileError, Lines, excerpt, quoted

_URL: Final = "https://docs.docker.com/go/dockerfile/rule/{}/"
RULES: Final = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": "All commands within the Dockerfile should use the same casing "
    "(either upper or lower)",
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior "
    "related to OS signals",
    "MaintainerDeprecated": "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": "Relative workdir without an absolute workdir declared within the build can have "
    "unexpected results if the base image changes",
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the "
    "default behavior",
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": "Comment for build stage or argument should follow the format: "
    "`# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or "
    "comment between the instruction and the comment.",
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": "IP address and host-port mapping should not be used in EXPOSE instruction. "
    "This will become an error in a future release",
}
"""What each check is about."""
EXPERIMENTAL: Final = frozenset(["CopyIgnoredFile", "InvalidDefinitionDescription"])
"""Checks that only run where they are asked for."""
_TRUE: Final = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE: Final = frozenset(["0", "f", "F", "FALSE", "false", "False"])


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of a check."""

    rule: str
    message: str
    lines: Lines

    @property
    def description(self) -> str:
        """What the check is about."""
        return RULES[self.rule]

    @property
    def url(self) -> str:
        """Where it is documented."""
        kebab = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in _words(self.rule))
        return _URL.format(kebab.lstrip("-"))

    def __str__(self) -> str:
        return f"{self.rule}: {self.message} (line {self.lines.start})"

    def report(self, dockerfile: Dockerfile) -> str:
        """The finding with the lines that it is about, as `--check` prints it."""
        where = excerpt(dockerfile.name, dockerfile.source, self.lines)
        return f"WARNING: {self.rule} - {self.url}\n{self.message}\n{where}"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which checks run, and whether a finding ends the build."""

    skip_all: bool = False
    skipped: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def runs(self, rule: str) -> bool:
        """Whether a check's findings count."""
        if self.skip_all or rule in self.skipped:
            return False
        return rule not in EXPERIMENTAL or rule in self.experimental


def parse_selection(text: str | None, lines: Lines | None = None) -> Selection:
    """Read `skip=A,B;error=true;experimental=all`. Raises DockerfileError."""
    found: dict[str, str] = {}
    for part in (text or "").split(";"):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in ("skip", "error", "experimental"):
            raise DockerfileError(f"invalid check option {quoted(part if not equals else key.strip())}", lines=lines)
        found[key.strip()] = value.strip()
    error = found.get("error", "false")
    if error not in _TRUE | _FALSE:
        raise DockerfileError(f"failed to parse check option {quoted('error=' + error)}: invalid syntax", lines=lines)
    wanted = _names(found.get("experimental", ""))
    return Selection(
        skip_all=found.get("skip") == "all",
        skipped=_names(found.get("skip", "")),
        experimental=EXPERIMENTAL if wanted == {"all"} else wanted,
        error=error in _TRUE,
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _words(rule: str) -> str:
    return rule.replace("JSON", "Json")
