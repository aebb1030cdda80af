"""Dockerfiles as people write them, by the docker client: a real Debian whose packages RUN installs from its mirror."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon

BASE = "debian-of-this-machine"
PACKAGES = r"""
FROM debian-of-this-machine AS packages
ENV DEBIAN_FRONTEND=noninteractive
RUN --mount=type=cache,target=/packages,sharing=locked <<EOF
set -e
echo "kept before: $(ls /packages/*.deb 2>/dev/null | wc -l)"
apt-get -q update
apt-get -q -y -o Dir::Cache::Archives=/packages -o APT::Keep-Downloaded-Packages=true \
    install --no-install-recommends hello busybox-static
hello --greeting="packages work"
EOF
"""
PROGRAM_ALONE = """
FROM scratch
COPY --from=packages /bin/busybox /bin/busybox
COPY --from=packages --chown=5:60 /etc/debian_version /release
USER 65534
ENTRYPOINT ["busybox"]
CMD ["echo", "alone"]
"""


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with apt, set up as this machine's is."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    folder = tmp_path_factory.mktemp("debian")
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().replace('"', "").splitlines() if "=" in line
    )
    apt = Path("/etc/apt")
    sources = [
        apt / "sources.list",
        *sorted(apt.glob("sources.list.d/*.list")),
        *sorted(apt.glob("sources.list.d/*.sources")),
    ]
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    (folder / "settings").write_text("\n".join(line for line in settings if line.lower().startswith("acquire::http")))
    done = subprocess.run(
        [
            *("mmdebstrap", "--variant=apt", "--include=ca-certificates"),
            f"--customize-hook=copy-in {folder}/settings /etc/apt/apt.conf.d",
            '--customize-hook=mv "$1/etc/apt/apt.conf.d/settings" "$1/etc/apt/apt.conf.d/99settings"',
            *(release.get("VERSION_CODENAME", ""), str(folder / "root.tar")),
            *(str(file) for file in sources if file.exists()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no package mirror answers: {done.stderr.strip().splitlines()[-1:]}")
    return folder / "root.tar"


@pytest.fixture
def base(engine: Daemon, debian: Path) -> Iterator[None]:
    engine.docker("import", str(debian), BASE)
    yield
    engine.clean()
    engine.docker("rmi", "-f", BASE, "packages", "alone", check=False)
    engine.request("POST", "/build/prune?all=1")


def build(engine: Daemon, folder: Path, dockerfile: str, *args: str) -> str:
    (folder / "Dockerfile").write_text(dockerfile)
    done = subprocess.run(
        ["docker", "build", "--network", "host", *args, str(folder)],
        env={**engine.environment(), "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.usefixtures("base")
def test_packages_are_installed_and_a_program_taken_from_them(engine: Daemon, tmp_path: Path) -> None:
    first = build(engine, tmp_path, PACKAGES, "-t", "packages")
    assert "kept before: 0\n" in first
    assert "\npackages work\n" in first
    assert engine.docker("run", "--rm", "packages", "hello", "-t").stdout == "hello, world\n"
    assert engine.docker("run", "--rm", "packages", "sh", "-c", "ls -d /packages || echo none").stdout == "none\n"

    last = build(engine, tmp_path, PACKAGES + PROGRAM_ALONE, "-t", "alone")
    assert last.count("Using cache") == 2
    assert engine.docker("run", "--rm", "alone").stdout == "alone\n"
    assert engine.docker("run", "--rm", "alone", "stat", "-c", "%u:%g", "/release").stdout == "5:60\n"
    assert len(engine.json("GET", "/images/alone/json")["RootFS"]["Layers"]) == 2

    again = build(engine, tmp_path, PACKAGES.replace("packages work", "again"), "-t", "packages")
    assert "kept before: 2\n" in again
    assert "\nagain\n" in again
    assert "Need to get 0 B" in again
