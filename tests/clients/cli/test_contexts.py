"""Contexts made and changed by either client: the same words, and files that the other one reads."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OURS = (sys.executable, "-m", "scow")

STEPS = """
context create box --docker host=unix:///run/box.sock --description 'A box'
context create box
context create default
context create a --docker host=unix:///x
context create tls --docker host=tcp://10.0.0.1:2376,ca=ca.pem,cert=cert.pem,key=key.pem,skip-tls-verify=true
context create bad --docker bogus=1
context create bad --docker bogus
context create bad --docker host=tcp://h,skip-tls-verify=maybe
context create bad --docker ca=missing.pem,host=tcp://h:1
context create bad --docker ca=broken.pem,host=tcp://h:1
context create bad --from nope
context create bad --from tls --docker host=tcp://h:1
context create copy --from tls --description copied
context inspect box --format '{{.Name}} {{.Endpoints.docker.Host}}'
context inspect tls copy
context inspect nope
context update box --description new
context update tls --docker host=tcp://10.0.0.2:2376
context update nope --description x
context update default --description x
context inspect box tls
context export copy copy.tar
context export copy copy.tar
context export nope
context export box
context import back copy.tar
context import back copy.tar
context import default copy.tar
context import other missing.tar
context inspect back
context use box
context rm box
context rm default
context rm nope back nope2
context rm -f nope
context rm -f box
context show
context use nope
context ls --format '{{.Name}} {{.Description}} {{.DockerEndpoint}}'
"""


def docker_28() -> str:
    """The path of docker's client of the version that these words are of, or "" if there is none."""
    path = shutil.which("docker")
    if path is None:
        return ""
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return path if version.startswith("Docker version 28.2.") else ""


needs_docker = pytest.mark.skipif(not docker_28(), reason="needs docker's client 28.2")


def run(program: tuple[str, ...], step: str, folder: Path) -> tuple[int, str, str]:
    folder.mkdir(exist_ok=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        shutil.copy(folder.parent / name, folder)
    (folder / "broken.pem").write_text("no certificate")
    environment = {
        "HOME": str(folder),
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
    }
    done = subprocess.run(
        [*program, *shlex.split(step)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    known = (str(folder), "HERE"), ("unix:///run/scow/scow.sock", "unix:///var/run/docker.sock"), ("scow", "docker")
    out, err = done.stdout, done.stderr
    for ours, theirs in known:
        out, err = out.replace(ours, theirs), err.replace(ours, theirs)
    return done.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ca.pem, cert.pem and key.pem in it."""
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=box",
        *files,
    ]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    shutil.copy(tmp_path / "ca.pem", tmp_path / "cert.pem")
    return tmp_path


@needs_docker
def test_both_clients_keep_contexts_alike(folder: Path) -> None:
    for step in STEPS.strip().split("\n"):
        assert (step, *run(OURS, step, folder / "ours")) == (step, *run((docker_28(),), step, folder / "theirs"))


@needs_docker
def test_each_client_imports_what_the_other_exported(folder: Path) -> None:
    make = "context create tls --docker host=tcp://10.0.0.1:2376,ca=ca.pem,cert=cert.pem,key=key.pem"
    for one, other in ((OURS, (docker_28(),)), ((docker_28(),), OURS)):
        own = folder / Path(one[0]).name
        for program, step in (
            (one, make),
            (one, "context export tls"),
            (other, "context import copy tls.dockercontext"),
        ):
            done = run(program, step, own)
            assert (done[0], done[2]) == (0, done[2])
        assert run(one, "context inspect copy", own) == run(other, "context inspect copy", own)
        assert '"key.pem"' in run(one, "context inspect copy", own)[1]
