"""Where `scow build` brings its results: registries, archives, folders; for several platforms, with attestations."""

import base64
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scow.oci import media_types
from support.daemon import Daemon, Registry

from . import forms
from .conftest import DebianRegistry, fetch, needs
from .test_pulls import fresh

HERE = f"linux/{forms.MACHINE}"
THERE = "linux/s390x" if forms.MACHINE != "s390x" else "linux/riscv64"
ACCEPT = ", ".join((media_types.OCI_INDEX, media_types.OCI_MANIFEST))
PLAIN = """
FROM scratch
ARG TARGETPLATFORM
COPY file /etc/os-release
LABEL platform=$TARGETPLATFORM
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "file").write_text("ID=test\n")
    (folder / "status").write_text("Package: bash\nStatus: install ok installed\nVersion: 5\nArchitecture: all\n")
    (folder / "Dockerfile").write_text(PLAIN)
    return folder


def raw(registry: Registry, name: str, reference: str) -> dict[str, Any]:
    return json.loads(fetch(f"http://{registry.address}/v2/{name}/manifests/{reference}", accept=ACCEPT)[0])


def manifest_in(archive: Path) -> dict[str, Any]:
    """The manifest that an archive's index leads to."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        top = read("index.json")["manifests"][0]
        found: dict[str, Any] = {"top": top, **read(f"blobs/{top['digest'].replace(':', '/')}")}
        return found


def test_a_build_for_several_platforms_is_one_index(engine: Daemon, registry: Registry, project: Path) -> None:
    name = fresh()
    ref = f"{registry.address}/{name}:1"
    metadata = project.parent / "metadata"
    said = engine.scow(
        *("build", "--platform", f"{HERE},{THERE}", "-t", ref, "--push", "--metadata-file", str(metadata)),
        *("--annotation", "index:of=index", "--annotation", f"manifest[{THERE}]:of=there", str(project)),
    ).stdout
    assert f"Step 1/4 : [{THERE}] FROM scratch" in said
    index = raw(registry, name, "1")
    assert [f"{each['platform']['os']}/{each['platform']['architecture']}" for each in index["manifests"]] == [
        HERE,
        THERE,
    ]
    assert index["annotations"] == {"of": "index"}
    here, there = (raw(registry, name, each["digest"]) for each in index["manifests"])
    assert (here.get("annotations"), there["annotations"]) == (None, {"of": "there"})
    config = json.loads(fetch(f"http://{registry.address}/v2/{name}/blobs/{there['config']['digest']}")[0])
    assert (config["architecture"], config["config"]["Labels"]) == (THERE.partition("/")[2], {"platform": THERE})
    told = json.loads(metadata.read_text())
    assert told["containerimage.digest"] == fetch(f"http://{registry.address}/v2/{name}/manifests/1", accept=ACCEPT)[1]
    assert told["containerimage.descriptor"]["mediaType"] == media_types.OCI_INDEX
    assert told["image.name"] == ref
    assert set(told) >= {f"buildx.build.provenance/{HERE}", f"buildx.build.provenance/{THERE}"}
    listed = engine.json("GET", f"/v1.50/images/{ref}/json?manifests=1")["Manifests"]
    assert [(each["Kind"], each["Available"]) for each in listed] == [("image", True)] * 2
    engine.docker("rmi", ref)


def test_attestations_are_referrers_of_the_image(engine: Daemon, registry: Registry, project: Path) -> None:
    name = fresh()
    ref = f"{registry.address}/{name}:1"
    with (project / "Dockerfile").open("a") as file:
        file.write("COPY status /var/lib/dpkg/status\nARG SECRET_OF_NOBODY\n")
    engine.scow(
        *("build", "-t", ref, "--push", "--sbom=true", "--attest", "type=provenance,mode=max"),
        *("--build-arg", "SECRET_OF_NOBODY=x", str(project)),
    )
    image, attestation = raw(registry, name, "1")["manifests"]
    assert attestation["annotations"]["vnd.docker.reference.digest"] == image["digest"]
    referrers = json.loads(fetch(f"http://{registry.address}/v2/{name}/referrers/{image['digest']}")[0])["manifests"]
    assert [each["digest"] for each in referrers] == [attestation["digest"]]
    statements = {}
    for layer in raw(registry, name, attestation["digest"])["layers"]:
        statement = json.loads(fetch(f"http://{registry.address}/v2/{name}/blobs/{layer['digest']}")[0])
        assert layer["annotations"] == {"in-toto.io/predicate-type": statement["predicateType"]}
        assert statement["subject"][0]["digest"] == {"sha256": image["digest"].partition(":")[2]}
        statements[statement["predicateType"]] = statement["predicate"]
    packages = statements["https://spdx.dev/Document"]["packages"]
    assert [each["name"] for each in packages] == [ref, "bash"]
    definition = statements["https://slsa.dev/provenance/v1"]["buildDefinition"]
    assert definition["externalParameters"]["request"]["args"]["build-arg:SECRET_OF_NOBODY"] == "x"
    source = definition["internalParameters"]["buildConfig"]["source"]["data"]
    assert base64.b64decode(source).decode() == (project / "Dockerfile").read_text()
    # What was built so can be pulled, with all that belongs to it.
    engine.docker("rmi", ref)
    engine.scow("pull", "--all-platforms", ref)
    kinds = [each["Kind"] for each in engine.json("GET", f"/v1.50/images/{ref}/json?manifests=1")["Manifests"]]
    assert kinds == ["image", "attestation"]
    engine.docker("rmi", ref)


def test_registries_without_referrers_get_a_list_of_them(
    engine: Daemon, debian_registry: DebianRegistry, project: Path
) -> None:
    name = fresh()
    ref = f"{debian_registry.address}/{name}:1"
    for _ in range(2):  # the second time it is there already
        engine.scow("build", "-t", ref, "--push", "--sbom=true", "--build-arg", "SOURCE_DATE_EPOCH=1", str(project))
    top = f"http://{debian_registry.address}/v2/{name}/manifests"
    image, attestation = json.loads(fetch(f"{top}/1", accept=ACCEPT)[0])["manifests"]
    (listed,) = json.loads(fetch(f"{top}/{image['digest'].replace(':', '-')}", accept=ACCEPT)[0])["manifests"]
    assert listed == {
        **{key: attestation[key] for key in ("mediaType", "digest", "size")},
        "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
    }
    engine.docker("rmi", ref)


def test_provenance_names_what_went_in_and_no_values_unless_asked(engine: Daemon, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox\nARG WHO\nRUN --mount=type=secret,id=key true\n")
    out = project.parent / "out"
    engine.scow(
        *("build", "--provenance=version=v0.2", "--secret", f"id=key,src={project}/file", "--build-arg", "WHO=me"),
        *("-o", str(out), str(project)),
    )
    text = (out / "provenance.json").read_text()
    statement = json.loads(text)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v0.2"
    (material,) = statement["predicate"]["materials"]
    assert material["uri"].startswith("pkg:docker/busybox@latest?platform=")
    assert statement["predicate"]["invocation"]["parameters"]["secrets"] == [{"id": "key", "optional": True}]
    assert ("ID=test" in text, "me" in statement["predicate"]["invocation"]["parameters"]["args"].values()) == (
        *(False, False),
    )


def test_archives_have_the_form_that_was_asked_for(engine: Daemon, project: Path, tmp_path: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox\nCOPY file /\n")
    outputs = {
        "zstd": "type=oci,compression=zstd,force-compression=true",
        "mixed": "type=oci,compression=uncompressed",
        "docker": "type=docker,oci-mediatypes=false",
    }
    words = [word for name, text in outputs.items() for word in ("-o", f"{text},dest={tmp_path}/{name}")]
    before = engine.docker("images", "-aq").stdout
    engine.scow("build", *words, str(project))
    kinds = {
        name: [layer["mediaType"].rpartition("tar")[2] for layer in manifest_in(tmp_path / name)["layers"]]
        for name in outputs
    }
    assert kinds == {"zstd": ["+zstd"] * 2, "mixed": ["+gzip", ""], "docker": [".gzip"] * 2}
    assert manifest_in(tmp_path / "docker")["mediaType"] == media_types.DOCKER_MANIFEST
    engine.scow("build", "-t", "nowhere", "-o", "type=cacheonly", str(project))
    # Nothing of a build that only makes files, or none, stays in the engine.
    assert engine.docker("images", "-aq").stdout == before


def test_an_archive_of_several_platforms_is_read_by_skopeo(engine: Daemon, project: Path, tmp_path: Path) -> None:
    needs("skopeo")
    engine.scow("build", "--platform", f"{HERE},{THERE}", "-o", f"type=oci,dest={tmp_path}/two,tar=false", str(project))
    copied = subprocess.run(
        ["skopeo", "copy", "--all", "--quiet", f"oci:{tmp_path}/two", f"dir:{tmp_path}/copied"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert copied.returncode == 0, copied.stderr


def test_trees_of_several_platforms_lie_side_by_side(engine: Daemon, project: Path, tmp_path: Path) -> None:
    arguments = ("build", "--platform", f"{HERE},{THERE}", "--build-arg", "SOURCE_DATE_EPOCH=1500000000")
    folders = [platform.replace("/", "_") for platform in (HERE, THERE)]
    engine.scow(*arguments, "-o", str(tmp_path / "out"), str(project))
    for folder in folders:
        file = tmp_path / "out" / folder / "etc/os-release"
        assert (file.read_text(), int(file.stat().st_mtime)) == ("ID=test\n", 1_500_000_000)
    done = subprocess.run(
        [*engine.scow("version").args[:1], *arguments, "-o", "type=tar,dest=-", str(project)],
        env=engine.environment(),
        capture_output=True,
        check=True,
    )
    assert b"Successfully built" in done.stderr
    (tmp_path / "tar").write_bytes(done.stdout)
    with tarfile.open(tmp_path / "tar") as tar:
        assert [name for name in tar.getnames() if name.endswith("os-release")] == [
            f"{folder}/etc/os-release" for folder in folders
        ]


def test_a_command_of_another_platform_says_what_is_missing(engine: Daemon, project: Path, registry: Registry) -> None:
    machine = {
        "s390x": b"\x02\x02\x01" + bytes(9) + b"\0\x02\0\x16",
        "riscv64": b"\x02\x01\x01" + bytes(9) + b"\x02\0\xf3\0",
    }
    (project / "sh").write_bytes(b"\x7fELF" + machine[THERE.partition("/")[2]] + bytes(100))
    (project / "Dockerfile").write_text("FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN exit 0\n")
    done = engine.scow("build", "--platform", THERE, str(project), check=False)
    assert done.returncode != 0
    assert f"runs no programs for {THERE}: no emulator" in done.stderr
    assert "qemu-user-static" in done.stderr


def test_what_runs_here_is_done_once_for_all_platforms(engine: Daemon, project: Path, tmp_path: Path) -> None:
    (project / "Dockerfile").write_text("""
FROM --platform=$BUILDPLATFORM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /once
FROM --platform=$BUILDPLATFORM tools AS build
ARG TARGETARCH
RUN echo $TARGETARCH > /for
FROM scratch
COPY --from=build /once /for /
""")
    platforms = ("--platform", f"{HERE},{THERE}")
    engine.scow("build", "--no-cache", *platforms, "-o", str(tmp_path / "out"), str(project))
    trees = [tmp_path / "out" / platform.replace("/", "_") for platform in (HERE, THERE)]
    assert len({(tree / "once").read_text() for tree in trees}) == 1
    assert [(tree / "for").read_text().strip() for tree in trees] == [
        platform.partition("/")[2] for platform in (HERE, THERE)
    ]


def test_bases_of_several_platforms_leave_the_name_to_this_machine(
    engine: Daemon, project: Path, registry: Registry
) -> None:
    name = fresh()
    ref = f"{registry.address}/{name}:1"
    platforms = ("--platform", f"{THERE},{HERE}")
    base = engine.scow("build", "-q", *platforms, "-t", ref, "--push", str(project)).stdout.strip()
    (project / "Dockerfile").write_text(f"FROM {ref}\nCOPY status /\n")
    for remove in (False, True):  # the bases are here, with their index; then they have to be pulled
        if remove:
            engine.docker("rmi", "-f", "derived", base)
            for each in engine.docker("images", "-q", f"{registry.address}/{name}").stdout.split():
                engine.docker("rmi", "-f", each)
        engine.scow("build", *platforms, "-t", "derived", str(project))
        if not remove:
            assert engine.json("GET", f"/images/{ref}/json")["Id"] == base
        listed = engine.json("GET", "/v1.50/images/derived/json?manifests=1")["Manifests"]
        assert [each["ImageData"]["Platform"]["architecture"] for each in listed] == [
            platform.partition("/")[2] for platform in (THERE, HERE)
        ]
    assert engine.json("GET", f"/images/{ref}/json")["Id"] == base
    for each in ("derived", base, *engine.docker("images", "-q", f"{registry.address}/{name}").stdout.split()):
        engine.docker("rmi", "-f", each, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "type=moon"), "unsupported output type 'moon'"),
        (("-o", "type=oci"), "dest is required for oci output"),
        (("-o", "type=image,colour=red"), "output type image has no option 'colour'"),
        (("-o", "type=image,dest=x"), "dest is not supported by image output"),
        (("--push",), "tag is needed when pushing to registry"),
        (("--platform", "moon/walk"), "unknown operating system or architecture"),
        (("--attest", "type=moon"), "unsupported attestation type 'moon'"),
        (("--provenance=mode=most",), "invalid provenance mode 'most'"),
        (("--sbom=generator=x",), "sbom generators are not run"),
        (("--annotation", "key"), "invalid annotation 'key'"),
        (("--annotation", "manifest[linux/s390x]:a=b", "-t", "x"), "which is not built"),
        (("-o", "type=docker,oci-mediatypes=false,compression=zstd"), "oci-mediatypes=false can't hold zstd"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(
    engine: Daemon, project: Path, words: tuple[str, ...], said: str
) -> None:
    done = engine.scow("build", *words, str(project), check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_result_that_nobody_keeps_is_not_found(engine: Daemon) -> None:
    for path in ("abc/archives/0", "abc/trees/0", "abc/trees/x"):
        assert engine.request("GET", f"/scow/build/results/{path}")[0] == 404
    assert engine.request("DELETE", "/scow/build/results/abc")[0] == 204


def test_raw_progress_is_one_status_a_line(engine: Daemon, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox AS one\nRUN echo out; echo err >&2\nFROM one\nRUN exit 3\n")
    done = engine.scow("build", "--no-cache", "--progress", "rawjson", str(project), check=False)
    assert done.returncode == 3
    statuses = [json.loads(line) for line in done.stdout.splitlines()]
    assert {key for status in statuses for key in status} <= {"vertexes", "statuses", "logs", "warnings"}
    vertexes = [vertex for status in statuses for vertex in status.get("vertexes", ())]
    (failed,) = [each for each in vertexes if each.get("error")]
    assert failed["name"] == "[stage-1 2/2] RUN exit 3"
    assert "returned a non-zero code: 3" in failed["error"]
    logs = {(log["stream"], base64.b64decode(log["data"])) for status in statuses for log in status.get("logs", ())}
    assert logs == {(1, b"out\n"), (2, b"err\n")}


def test_a_quiet_build_shows_its_output_when_it_fails(engine: Daemon, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox\nRUN echo why; exit 4\n")
    done = engine.scow("build", "-q", "--no-cache", str(project), check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert "\nwhy\n" in done.stderr
