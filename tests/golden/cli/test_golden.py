"""Exact output: one file a case. Run with SCOW_GOLDEN_WRITE=1 to write what is printed now, then read the diff."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_client_prints_exactly_this(case: Path, client: Callable[..., Any]) -> None:
    text = case.read_text()
    command = text.partition("\n")[0].removeprefix("$ scow ")
    done = client(*shlex.split(command))
    printed = f"$ scow {command}\n--- exit {done.returncode}\n--- stdout\n{done.stdout}--- stderr\n{done.stderr}"
    if os.environ.get("SCOW_GOLDEN_WRITE"):
        case.write_text(printed)
    assert printed == text


def test_there_are_cases() -> None:
    assert len(CASES) > 20
