"""What a start of the engine reads, and what it leaves for later."""

import subprocess
import sys

NOT_BEFORE_IT_IS_BEGUN = {"scow.engine.engine", "scow.engine.resources", "scow.network", "scow.store", "scow.transfer"}
NOT_BEFORE_A_BUILD = {
    *("scow.build.config_changes", "scow.build.context", "scow.build.dockerfile", "scow.build.executor"),
    *("scow.build.tools", "scow.engine.build_work", "scow.engine.builder"),
}


def imported_by(module: str) -> set[str]:
    probe = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_what_takes_others_a_while_is_begun_before_the_engine_is_read() -> None:
    assert NOT_BEFORE_IT_IS_BEGUN.isdisjoint(imported_by("scow.engine.opening"))


def test_what_only_builds_need_is_not_read_at_start() -> None:
    assert NOT_BEFORE_A_BUILD.isdisjoint(imported_by("scow.engine.engine"))
