"""The client starts in little more than the interpreter's time: what it imports is kept small."""

import os
import subprocess
import sys
from pathlib import Path

HEAVY = {
    "aiohttp", "argparse", "asyncio", "collections", "dataclasses", "datetime", "email", "enum", "functools",
    "http.client", "inspect", "json", "logging", "msgspec", "re", "rich", "selectors", "shutil", "socket", "ssl",
    "subprocess", "tempfile", "threading", "typing", "urllib.parse", "urllib.request",
}  # fmt: skip
MODULES = 26  # of our own, for one listing


def modules(probe: str, **environment: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `probe`; -S keeps the site's own out of the count."""
    import scow

    path = str(Path(scow.__file__).parent.parent)
    out = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {path!r})\n{probe}\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return set(out.stdout.splitlines()[-1].split())


def test_the_client_starts_without_heavy_modules() -> None:
    assert HEAVY.isdisjoint(modules("import scow.cli.main"))


def test_a_listing_loads_no_heavy_modules(tmp_path: Path) -> None:
    loaded = modules(
        "from scow.cli.main import run; run(['ps'])",
        SCOW_HOST=f"unix://{tmp_path}/none.sock",
        DOCKER_CONFIG=str(tmp_path),
    )
    assert "scow.cli.engine" in loaded
    assert HEAVY.isdisjoint(loaded)
    assert sum(name.startswith("scow") for name in loaded) <= MODULES


def test_a_build_takes_one_light_module_from_another_floor() -> None:
    loaded = modules("import scow.cli.commands.build")
    assert {name for name in loaded if name.startswith("scow.build.")} == {"scow.build.ignore"}
    assert {"msgspec", "asyncio", "aiohttp"}.isdisjoint(loaded)
