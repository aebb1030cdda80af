"""Every test carries the marker of the folder that it lies in (see tests' layout in ARCHITECTURE.md)."""

from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parent
LONG: Final = {
    "clients/network/test_application.py",
    "clients/network/test_compose.py",
    "clients/registry/test_image.py",
    "contract/registry/test_cluster.py",
    "contract/store/test_layer_forms.py",
    "engine/recovery/test_kill_at_every_step.py",
}
"""Files that take longest. They come first, or one of two processes would be left with such a one at the end."""


@pytest.hookimpl(trylast=True)  # when the order is random already
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.path.relative_to(ROOT).parts[0]
        item.add_marker(getattr(pytest.mark, kind))
    items.sort(key=lambda item: str(item.path.relative_to(ROOT)) not in LONG)
