"""The scripted engine and a way to run our client (or another one) against it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def load(name: str) -> ModuleType:
    """Load a module of this folder: tests are no packages."""
    spec = importlib.util.spec_from_file_location(f"golden_cli_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    module = load("fake_engine")
    with module.FakeEngine(tmp_path_factory.mktemp("fake") / "s.sock") as engine:
        load("scripts").install(engine, module)
        yield engine


@pytest.fixture
def client(fake: Any, tmp_path: Path) -> Run:
    """Run a client: `client("ps", "-a")`; `program` is another one than ours."""

    def run(*words: str, program: str = "", stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        command = [program] if program else [sys.executable, "-m", "scow"]
        own = {"DOCKER_HOST": fake.host, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path), "TZ": "UTC"}
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return subprocess.run(
            [*command, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**kept, **own, **environment},
        )

    return run
