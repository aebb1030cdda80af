"""What takes others a while is begun before the engine's own modules are read."""

import subprocess
import sys

PROBE = """
import sys
import scow.engine.opening
late = ("scow.engine.engine", "scow.engine.resources", "scow.network", "scow.store.store", "scow.transfer")
print(*[name for name in sys.modules if name.startswith(late)])
"""


def test_a_head_start_waits_for_no_other_modules() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
