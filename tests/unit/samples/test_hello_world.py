"""The sample image is small, for two platforms, always the same, and prints its text."""

import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from scow.oci.image_config import decode_config
from scow.oci.manifest import Index, Manifest, decode
from scow.oci.platform import host_platform, parse_platform, select
from scow.samples.elf import MACHINES, printing_program
from scow.samples.hello_world import hello_world


@pytest.mark.parametrize("architecture", sorted(MACHINES))
def test_a_program_is_smaller_than_two_kilobytes(architecture: str) -> None:
    for blob in hello_world().blobs:
        if blob.media_type.endswith("gzip"):
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob.data))) as tar:
                assert tar.getmember("hello").size < 2000
    assert printing_program(architecture, b"x").startswith(b"\x7fELF")


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="no program for this machine")
def test_the_program_prints_its_text_and_exits_with_zero(tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_bytes(printing_program(host_platform().architecture, b"ahoy\n"))
    program.chmod(0o755)
    done = subprocess.run([program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"ahoy\n")


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64", "linux/arm64/v8"])
def test_the_index_leads_to_a_config_of_the_platform(platform: str) -> None:
    image = hello_world()
    documents = {blob.digest: blob for blob in (*image.blobs, *image.manifests)}
    index = decode(image.top.data, image.top.media_type)
    assert isinstance(index, Index)
    chosen = select(index.manifests, parse_platform(platform))
    assert chosen is not None
    manifest = decode(documents[chosen.digest].data, chosen.media_type)
    assert isinstance(manifest, Manifest)
    config = decode_config(documents[manifest.config.digest].data)
    assert config.architecture == platform.split("/")[1]
    assert config.exec.cmd == ["/hello"]


def test_the_image_is_the_same_every_time() -> None:
    assert hello_world() == hello_world()
    assert json.loads(hello_world().top.data)["schemaVersion"] == 2
