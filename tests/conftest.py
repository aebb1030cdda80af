"""Every test carries the marker of the folder that it lies in (see tests' layout in ARCHITECTURE.md)."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.path.relative_to(ROOT).parts[0]
        item.add_marker(getattr(pytest.mark, kind))
