"""Builds warn of what is probably not meant, refuse what can't be, and show where it stands."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.oci.platform import host_platform
from support.daemon import Daemon


@pytest.fixture(autouse=True)
def no_images_left(engine: Daemon) -> Iterator[None]:
    """Whatever images a test makes go with it."""
    before = {image["Id"] for image in engine.json("GET", "/images/json?all=1")}
    yield
    for image in engine.json("GET", "/images/json?all=1"):
        if image["Id"] not in before:
            engine.json("DELETE", f"/images/{image['Id']}?force=1")


def build(engine: Daemon, folder: Path, text: str, *args: str) -> subprocess.CompletedProcess[str]:
    """What `scow build` says of a Dockerfile."""
    (folder / "Dockerfile").write_text(text)
    return engine.scow("build", *args, str(folder), check=False)


def test_findings_and_unused_arguments_are_warned_of(engine: Daemon, tmp_path: Path) -> None:
    text = "FROM scratch as Base\nARG sources\nLABEL a=$source\nCMD hi\n"
    done = build(engine, tmp_path, text, "--build-arg", "zz=1", "--build-arg", "HTTP_PROXY=x")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[Warning]")] == [
        "[Warning] StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
        "[Warning] FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)",
        "[Warning] UndefinedVar: Usage of undefined variable '$source' (did you mean $sources?) (line 3)",
        "[Warning] JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to "
        "OS signals (line 4)",
        "[Warning] One or more build-args [zz] were not consumed",
    ]


def test_a_base_images_variables_are_known(engine: Daemon, tmp_path: Path) -> None:
    build(engine, tmp_path, "FROM scratch\nENV HOME_OF_IT=/h\n", "-t", "checks/base")
    done = build(engine, tmp_path, "FROM checks/base\nWORKDIR $HOME_OF_IT\nLABEL x=$HOME_OF\n")
    assert "[Warning] UndefinedVar: Usage of undefined variable '$HOME_OF' (line 3)" in done.stdout
    assert done.stdout.count("[Warning]") == 1


def test_a_base_for_another_platform_is_warned_of(engine: Daemon, tmp_path: Path) -> None:
    build(engine, tmp_path, "FROM scratch\nLABEL a=b\n", "--platform", "linux/s390x", "-t", "checks/other")
    done = build(engine, tmp_path, "FROM checks/other\nLABEL c=d\n")
    assert [line for line in done.stdout.splitlines() if line.startswith("[Warning]")] == [
        "[Warning] InvalidBaseImagePlatform: Base image checks/other was pulled with platform "
        f'"linux/s390x", expected "{host_platform()}" for current build (line 1)'
    ]


def test_checks_alone_build_nothing(engine: Daemon, tmp_path: Path) -> None:
    before = engine.json("GET", "/images/json?all=1")
    found = build(engine, tmp_path, "FROM scratch\nMAINTAINER me\n", "--check")
    assert found.returncode == 1
    assert found.stdout == (
        "WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/\n"
        "Maintainer instruction is deprecated in favor of using label\n"
        "Dockerfile:2\n"
        "--------------------\n"
        "   1 |     FROM scratch\n"
        "   2 | >>> MAINTAINER me\n"
        "--------------------\n"
        "\n"
        "Check complete, 1 warning has been found!\n"
    )
    fine = build(engine, tmp_path, "FROM does/not:exist\n", "--check")
    assert (fine.returncode, fine.stdout) == (0, "Check complete, no warnings found.\n")
    assert engine.json("GET", "/images/json?all=1") == before


def test_findings_end_a_build_whose_file_says_so(engine: Daemon, tmp_path: Path) -> None:
    done = build(engine, tmp_path, "# check=error=true\nFROM scratch as x\n")
    assert done.returncode == 1
    assert "lint violation found for rules: FromAsCasing" in done.stderr
    assert "Step" not in done.stdout


def test_files_that_are_kept_out_are_told(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("secret\n")
    found = build(engine, tmp_path, "# check=experimental=all\nFROM scratch\nCOPY secret /\n", "--check")
    assert 'Attempting to Copy file "secret" that is excluded by .dockerignore' in found.stdout


def test_an_error_shows_its_place(engine: Daemon, tmp_path: Path) -> None:
    done = build(engine, tmp_path, "FROM scratch\nCOPPY a b\n")
    assert done.returncode == 1
    assert done.stderr == (
        "Error response from daemon: dockerfile parse error on line 2: unknown instruction: COPPY "
        "(did you mean COPY?)\n"
        "Dockerfile:2\n"
        "--------------------\n"
        "   1 |     FROM scratch\n"
        "   2 | >>> COPPY a b\n"
        "     |     ^^^^^\n"
        "--------------------\n"
    )
    late = build(engine, tmp_path, "FROM scratch\nLABEL ok=1\nEXPOSE ${port:?is needed}\n")
    assert late.returncode == 1
    assert "   3 | >>> EXPOSE ${port:?is needed}\n" in late.stderr


def test_stages_further_down_can_be_copied_from_and_circles_cannot(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    text = "FROM scratch\nCOPY --from=later /file /\nFROM scratch AS later\nCOPY file /\n"
    done = build(engine, tmp_path, text, "--target", "0")
    assert done.returncode == 0, done.stderr
    circle = build(engine, tmp_path, text + "COPY --from=0 /file /again\n")
    assert "circular dependency detected on stage: 0" in circle.stderr


def test_triggers_of_a_base_bring_the_stages_that_they_need(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    base = build(engine, tmp_path, "FROM scratch\nONBUILD COPY --from=extra /file /copied\n", "-t", "checks/onbuild")
    assert base.returncode == 0, base.stderr
    done = build(
        engine, tmp_path, "FROM scratch AS extra\nCOPY file /\nFROM checks/onbuild\nLABEL x=1\n", "-t", "checks/on"
    )
    assert done.returncode == 0, done.stderr
    image = engine.json("GET", "/images/checks/on/json")
    assert len(image["RootFS"]["Layers"]) == 1
    assert not image["Config"].get("OnBuild")
    refused = build(engine, tmp_path, "FROM checks/onbuild AS extra\n")
    assert "circular dependency detected on stage: extra" in refused.stderr
    assert "extra" not in json.dumps(engine.json("GET", "/containers/json?all=1"))


def test_calls_tell_what_a_dockerfile_offers(engine: Daemon, tmp_path: Path) -> None:
    text = """
    # VERSION of everything
    ARG VERSION=1
    # base has tools
    FROM busybox AS base
    ARG VERSION
    # WHO is greeted
    ARG WHO
    RUN --mount=type=secret,id=token,required --mount=type=ssh true
    FROM busybox AS other
    ARG UNUSED
    FROM base
    RUN --mount=type=secret,id=maybe true
    """
    targets = build(engine, tmp_path, text, "--call", "targets").stdout.splitlines()
    assert [line.split() for line in targets] == [
        *(["TARGET", "DESCRIPTION"], ["base", "has", "tools"], ["other"], ["(default)"]),
    ]
    outline = build(engine, tmp_path, text, "--call=outline,format=json", "--build-arg", "WHO=you")
    assert json.loads(outline.stdout) == {
        "name": "default",
        "args": [
            {"name": "VERSION", "description": "of everything", "value": "1"},
            {"name": "WHO", "description": "is greeted", "value": "you"},
        ],
        "secrets": [{"name": "token", "required": True}, {"name": "maybe"}],
        "ssh": [{"name": "default"}],
    }
    shown = build(engine, tmp_path, text, "--call", "outline", "--target", "base").stdout
    assert shown.startswith("TARGET:      base\nDESCRIPTION: has tools\n\nBUILD ARG   VALUE   DESCRIPTION\n")
    assert "SECRET   REQUIRED\ntoken    true\n\nSSH       REQUIRED\ndefault\n" in shown
    refused = build(engine, tmp_path, text, "--call", "moon")
    assert (refused.returncode, "one of build, check, outline, targets" in refused.stderr) == (1, True)
