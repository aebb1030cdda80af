"""Which AppArmor profile a container gets."""

from pathlib import Path

import pytest

from scow.runtime.apparmor import profile_for


@pytest.mark.parametrize(
    ("enabled", "loaded", "asked", "privileged", "expected"),
    [
        ("Y\n", "docker-default (enforce)\n", "", False, "docker-default"),
        ("Y\n", "my docker-default-2 (enforce)\n", "", False, ""),
        ("Y\n", None, "", False, ""),
        ("Y\n", "docker-default (enforce)\n", "", True, "unconfined"),
        ("Y\n", "", "mine", True, "mine"),
        ("Y\n", "docker-default (enforce)\n", "unconfined", False, "unconfined"),
        ("N\n", "docker-default (enforce)\n", "mine", False, ""),
        (None, None, "mine", False, ""),
    ],
)
def test_the_profile(
    tmp_path: Path, enabled: str | None, loaded: str | None, asked: str, privileged: bool, expected: str
) -> None:
    for name, text in (("enabled", enabled), ("loaded", loaded)):
        if text is not None:
            (tmp_path / name).write_text(text)
    files = {"enabled": tmp_path / "enabled", "loaded": tmp_path / "loaded"}
    assert profile_for(asked, privileged=privileged, **files) == expected
