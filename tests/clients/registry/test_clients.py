"""skopeo, podman and curl push to the registry and pull from it."""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import pytest

from .conftest import Process

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def make_layout(root: Path) -> Path:
    """An image of one layer as an OCI layout, tagged `latest`."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digits = hashlib.sha256(data).hexdigest()
        (blobs / digits).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digits}", "size": len(data)}

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("data")
        entry.size = 300_000
        archive.addfile(entry, io.BytesIO(bytes(range(250)) * 1200))
    diff_id = "sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(gzip.compress(tar.getvalue(), mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    entry_of = put(json.dumps(manifest).encode(), MANIFEST)
    entry_of["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry_of]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def copy(source: str, target: str, *flags: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    ways = ["--src-tls-verify=false"] * source.startswith("docker:") + ["--dest-tls-verify=false"] * target.startswith(
        "docker:"
    )
    return run("skopeo", "--insecure-policy", "copy", *ways, *flags, source, target, check=check)


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return f"oci:{make_layout(tmp_path / 'layout')}:latest"


def test_skopeo_copies_in_and_out_without_changing_a_byte(registry: Process, layout: str, tmp_path: Path) -> None:
    need("skopeo")
    image = f"docker://{registry.host}/library/image:v1"
    copy(layout, image)
    copy(image, f"oci:{tmp_path / 'back'}:latest")
    before, after = (
        sorted(path.name for path in (tmp_path / d / "blobs/sha256").iterdir()) for d in ("layout", "back")
    )
    assert before == after
    copy(image, f"dir:{tmp_path / 'dir'}")
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", image).stdout
    assert raw == (tmp_path / "dir" / "manifest.json").read_text()


def test_skopeo_copies_through_a_docker_archive(registry: Process, layout: str, tmp_path: Path) -> None:
    need("skopeo")
    archive = f"docker-archive:{tmp_path / 'image.tar'}"
    copy(layout, f"docker://{registry.host}/one:v1")
    copy(f"docker://{registry.host}/one:v1", f"{archive}:one:v1")
    copy(archive, f"docker://{registry.host}/two:v1")
    seen = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/two:v1").stdout)
    assert (seen["RepoTags"], len(seen["Layers"])) == (["v1"], 1)


def test_skopeo_copies_between_repositories_and_converts(registry: Process, layout: str) -> None:
    need("skopeo")
    copy(layout, f"docker://{registry.host}/one:v1")
    copy(f"docker://{registry.host}/one:v1", f"docker://{registry.host}/two/deep/er:v1")
    copy(f"docker://{registry.host}/one:v1", f"docker://{registry.host}/one:schema2", "--format", "v2s2")
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/one:schema2").stdout
    assert json.loads(raw)["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_skopeo_deletes(registry: Process, layout: str) -> None:
    need("skopeo")
    image = f"docker://{registry.host}/one:v1"
    copy(layout, image)
    run("skopeo", "delete", "--tls-verify=false", image)
    assert "manifest unknown" in run("skopeo", "inspect", "--tls-verify=false", image, check=False).stderr


def test_skopeo_logs_in(layout: str, tmp_path: Path) -> None:
    need("skopeo")
    storage = tmp_path / "registry"
    add = [sys.executable, "-m", "scow.registry", "user", "add", "--storage", str(storage), "--password-stdin", "ann"]
    subprocess.run(add, input="secret\n", text=True, check=True, capture_output=True)
    registry = Process(storage)
    registry.start()
    try:
        image = f"docker://{registry.host}/one:v1"
        assert "authentication required" in copy(layout, image, check=False).stderr
        copy(layout, image, "--dest-creds", "ann:secret")
        copy(image, f"dir:{tmp_path / 'dir'}", "--src-creds", "ann:secret")
        assert copy(image, f"dir:{tmp_path / 'dir2'}", "--src-creds", "ann:wrong", check=False).returncode != 0
    finally:
        assert registry.stop() == 0


def test_podman_pushes_and_pulls(
    registry: Process, layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need("podman")
    runroot = tempfile.mkdtemp(prefix="run")  # podman takes at most 50 characters
    request.addfinalizer(lambda: shutil.rmtree(runroot, ignore_errors=True))
    podman = ["podman", "--root", str(tmp_path / "root"), "--runroot", runroot, "--storage-driver", "vfs"]
    if (probe := run(*podman, "info", check=False)).returncode != 0:
        pytest.skip(f"podman does not work here: {probe.stderr.strip()[-200:]}")
    pulled = run(*podman, "pull", "-q", layout).stdout.strip()
    image = f"{registry.host}/podman/image:v1"
    run(*podman, "push", "--tls-verify=false", pulled, image)
    run(*podman, "rmi", pulled)
    assert run(*podman, "pull", "-q", "--tls-verify=false", image).stdout.strip() == pulled


def test_curl_resumes_a_download(registry: Process, tmp_path: Path) -> None:
    need("curl")
    data = tmp_path / "data"
    data.write_bytes(bytes(range(256)) * 4000)
    digest = "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()
    url = f"http://{registry.host}/v2/curl/blobs"
    answer = run(
        "curl", "-sf", "-X", "POST", "--data-binary", f"@{data}", f"{url}/uploads/?digest={digest}", "-i"
    ).stdout
    assert answer.startswith(("HTTP/1.1 201", "HTTP/1.1 100"))
    part = tmp_path / "part"
    part.write_bytes(data.read_bytes()[:12345])
    run("curl", "-sf", "-C", "-", "-o", str(part), f"{url}/{digest}")
    assert part.read_bytes() == data.read_bytes()


def test_the_port_in_use_is_a_clear_error(registry: Process, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "scow.registry",
        "serve",
        "--listen",
        registry.host,
        "--storage",
        str(tmp_path / "x"),
    ]
    done = run(*command, check=False)
    assert done.returncode == 1
    assert f"cannot listen on {registry.host}: the address is in use" in done.stderr


def test_what_was_acknowledged_survives_a_kill(registry: Process, layout: str) -> None:
    need("skopeo")
    copy(layout, f"docker://{registry.host}/one:v1")
    request = urllib.request.Request(f"http://{registry.host}/v2/one/blobs/uploads/", method="POST")
    with urllib.request.urlopen(request) as reply:
        location = reply.headers["Location"]
    request = urllib.request.Request(f"http://{registry.host}{location}", data=b"half", method="PATCH")
    urllib.request.urlopen(request).close()
    registry.kill()
    registry.start()
    run("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/one:v1")
    with urllib.request.urlopen(f"http://{registry.host}{location}") as reply:
        assert reply.headers["Range"] == "0-3"
    digest = "sha256:" + hashlib.sha256(b"half and whole").hexdigest()
    url = f"http://{registry.host}{location}?digest={digest}"
    with urllib.request.urlopen(urllib.request.Request(url, data=b" and whole", method="PUT")) as reply:
        assert reply.status == 201
