"""Which docker client this machine has: Debian 12's is 20.10, and knows fewer flags and other words than today's."""

import re
import shutil
import subprocess

import pytest

MODERN = (28, 0)
"""The client whose words `scow` has."""


def docker_version() -> tuple[int, int]:
    """Major and minor version of the docker client, (0, 0) if there is none."""
    if shutil.which("docker") is None:
        return (0, 0)
    said = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


modern_docker = pytest.mark.skipif(
    docker_version() < MODERN, reason=f"docker's client is older than {MODERN[0]}, whose words or flags this needs"
)
