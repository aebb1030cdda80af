"""The busybox root of tests that need one container and any runtime."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.runtime import controllers
from support.containers import BUSYBOX, make_rootfs


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    if not BUSYBOX.is_file():
        pytest.skip("busybox-static is not installed")
    folder = make_rootfs()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def exec_root() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    folder = Path(tempfile.mkdtemp(prefix="scow-rt-"))
    yield folder
    controllers.release()
    shutil.rmtree(folder)
