"""Docker's build checks."""

import pytest

from scow.build.arguments import global_scope
from scow.build.checks import RULES
from scow.build.dockerfile import parse
from scow.build.errors import DockerfileError
from scow.build.ignore import Ignore
from scow.build.lint import KnownBase, LintFailed, lint, refuse_findings
from scow.oci.platform import Platform

AMD = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm64")


def found(
    text: str,
    *,
    ignored: str = "",
    env: dict[str, str] | None = None,
    platform: Platform | None = None,
    **build_args: str,
) -> list[str]:
    file = parse(text)
    bases = {} if env is None and platform is None else {0: KnownBase(env or {}, platform)}
    ignore = Ignore([ignored]) if ignored else None
    scope = global_scope(file, build_args, AMD, AMD)
    return [str(one) for one in lint(file, scope, bases=bases, ignore=ignore)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM scratch AS Base", "StageNameCasing: Stage name 'Base' should be lowercase (line 1)"),
        ("FROM scratch as base", "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"),
        ("FROM scratch\nRUN a \\\n\n b", "NoEmptyContinuation: Empty continuation line (line 3)"),
        (
            "FROM scratch\nRUN a\nrun b",
            "ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) "
            "(line 3)",
        ),
        (
            "FROM scratch AS a\nFROM scratch AS a",
            'DuplicateStageName: Duplicate stage name "a", stage names should be unique (line 2)',
        ),
        (
            "FROM scratch AS context",
            'ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 1)',
        ),
        (
            "FROM scratch\nENTRYPOINT a b",
            "JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to "
            "OS signals (line 2)",
        ),
        (
            "FROM scratch\nMAINTAINER me",
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
        ),
        (
            "FROM --platform=$BULIDPLATFORM scratch",
            "UndefinedArgInFrom: FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?) (line 1)",
        ),
        (
            "FROM scratch\nWORKDIR app",
            'WorkdirRelativePath: Relative workdir "app" can have unexpected results if the base image changes '
            "(line 2)",
        ),
        (
            "FROM scratch\nARG sources=x\nCOPY $source .",
            "UndefinedVar: Usage of undefined variable '$source' (did you mean $sources?) (line 3)",
        ),
        (
            'FROM scratch\nCMD ["a"]\nCMD ["b"]',
            "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because "
            "only the last one will be used (line 2)",
        ),
        (
            "FROM scratch\nENV a b",
            'LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)',
        ),
        (
            "FROM --platform=$TARGETPLATFORM scratch",
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is "
            "the default behavior (line 1)",
        ),
        (
            "FROM scratch\nARG AWS_SECRET",
            'SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "AWS_SECRET") (line 2)',
        ),
        (
            "ARG TAG\nFROM alpine:$TAG",
            "InvalidDefaultArgInFrom: Default value for ARG alpine:$TAG results in empty or invalid base image name "
            "(line 2)",
        ),
        (
            "FROM --platform=linux/amd64 alpine",
            'FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/amd64" '
            "(line 1)",
        ),
        (
            "FROM scratch\nEXPOSE 80/TcP",
            "ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)",
        ),
        (
            "FROM scratch\nEXPOSE 127.0.0.1:80:80",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found "
            "'127.0.0.1:80:80' (line 2)",
        ),
    ],
)
def test_a_check_finds(text: str, expected: str) -> None:
    assert found(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch AS base\nFROM base",
        "from scratch as base\nrun a",
        'FROM scratch\nSHELL ["bash", "-c"]\nCMD echo hi',
        'FROM scratch\nCMD ["a"]\nHEALTHCHECK NONE',
        "FROM scratch\nWORKDIR /app\nWORKDIR sub",
        "FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub",
        "ARG A=1\nFROM alpine:$A",
        "ARG A\nFROM alpine:${A:-3}",
        "FROM --platform=linux/amd64 alpine AS build-amd64",
        "FROM --platform=$BUILDPLATFORM alpine",
        "FROM scratch\nARG x\nCOPY $x /",
        "FROM scratch\nCOPY ${x:-y} ${z:+w}",
        "FROM scratch AS a\nENV x=1\nFROM a\nCOPY $x /",
        "FROM scratch\nCOPY <<'E' /\n$x\nE",
        "FROM scratch\nARG PUBLIC_KEY=x\nENV KEY_FILE=/k monkey=1",
        "FROM alpine\nCOPY $UNKNOWN_TO_US $PATH",
        "FROM scratch\nEXPOSE 80/tcp 8000-8010/udp",
        "FROM scratch\nRUN echo $anything",
        "# not about the stage\nFROM scratch AS a\n# nor this\nARG b",
    ],
)
def test_what_is_fine_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_experimental_checks_run_where_asked_for() -> None:
    text = "# check=experimental=all\n# about the stage\n\n# this\nFROM scratch AS base\n"
    text += "# VERSION of it\nARG VERSION\nCOPY a /"
    assert found(text, ignored="a") == [
        "InvalidDefinitionDescription: Comment for FROM should follow the format: `# base <description>` (line 5)",
        'CopyIgnoredFile: Attempting to Copy file "a" that is excluded by .dockerignore (line 8)',
    ]
    assert found(text.replace("all", "CopyIgnoredFile"), ignored="b") == []


def test_variables_of_known_bases_are_known() -> None:
    assert found("FROM java\nCOPY x $JAVA_HOME", env={"JAVA_HOME": "/j"}) == []
    assert found("FROM java\nCOPY x $JAVA", env={"LANG": "C"}) == [
        "UndefinedVar: Usage of undefined variable '$JAVA' (line 2)"
    ]


def test_checks_are_skipped_as_the_directive_says() -> None:
    text = "FROM scratch as Base"
    assert len(found(text)) == 2
    assert [one.split(":")[0] for one in found("# check=skip=StageNameCasing\n" + text)] == ["FromAsCasing"]
    assert found("# check=skip=all\n" + text) == []
    assert found("# check=skip=StageNameCasing, FromAsCasing;error=true\n" + text) == []
    assert found("# check=skip=all\n" + text, BUILDKIT_DOCKERFILE_CHECK="skip=FromAsCasing") == [
        "StageNameCasing: Stage name 'Base' should be lowercase (line 2)"
    ]


@pytest.mark.parametrize("check", ["skip", "skip=a;error=maybe", "what=x"])
def test_a_malformed_directive_is_refused(check: str) -> None:
    with pytest.raises(DockerfileError, match="check option"):
        found(f"# check={check}\nFROM scratch")


def test_findings_end_the_build_where_the_file_says_so() -> None:
    for text, fails in (("# check=error=true\nFROM scratch as Base", True), ("FROM scratch as Base", False)):
        file = parse(text)
        scope = global_scope(file, {}, AMD, AMD)
        findings = lint(file, scope)
        if not fails:
            refuse_findings(file, scope, findings)
            continue
        with pytest.raises(LintFailed, match="lint violation found for rules: FromAsCasing, StageNameCasing"):
            refuse_findings(file, scope, findings)


def test_a_base_for_another_platform_is_told() -> None:
    said = (
        "InvalidBaseImagePlatform: Base image alpine was pulled with platform "
        '"linux/arm64", expected "linux/amd64" for current build (line 1)'
    )
    assert found("FROM alpine", platform=ARM) == [said]
    assert found("FROM alpine", platform=AMD) == []
    assert found("ARG OTHER=linux/arm64\nFROM --platform=$OTHER alpine", platform=ARM) == []


def test_a_finding_is_printed_with_its_place_and_documentation() -> None:
    file = parse("FROM scratch\nCMD x\n")
    (finding,) = lint(file, global_scope(file, {}, AMD, AMD))
    assert finding.report(file) == (
        "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n"
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n"
        "Dockerfile:2\n"
        "--------------------\n"
        "   1 |     FROM scratch\n"
        "   2 | >>> CMD x\n"
        "--------------------"
    )
    assert finding.description == RULES["JSONArgsRecommended"]
