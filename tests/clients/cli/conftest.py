"""The same scripted engine as the golden cases', for our client and docker's."""

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).parents[2] / "golden" / "cli" / "conftest.py"
_spec = importlib.util.spec_from_file_location("golden_cli_conftest", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

fake = _module.fake
client = _module.client
