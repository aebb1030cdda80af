"""Interpreters of foreign programs."""

from pathlib import Path

from scow.linux.binfmt import has_interpreter

QEMU = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def test_an_interpreter_is_found_by_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "any-name").write_text(QEMU.format(flags="POCF"))
    assert has_interpreter("arm64", tmp_path)
    assert not has_interpreter("arm", tmp_path)
    assert not has_interpreter("moon", tmp_path)


def test_an_interpreter_that_containers_do_not_see_is_none(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text(QEMU.format(flags="PO"))
    assert not has_interpreter("arm64", tmp_path)


def test_a_disabled_interpreter_is_none(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text(QEMU.format(flags="F").replace("enabled", "disabled"))
    assert not has_interpreter("arm64", tmp_path)


def test_without_the_file_system_there_is_none(tmp_path: Path) -> None:
    assert not has_interpreter("arm64", tmp_path / "missing")
