"""`scow registry COMMAND`: arguments, help and exit codes."""

from pathlib import Path

import pytest

from scow.registry.command import main


@pytest.mark.parametrize(
    "command", [["gc"], ["gc", "--dry-run"], ["backup", "file"], ["check"], ["user", "ls"], ["user", "rm", "ann"]]
)
def test_who_looks_after_a_registry_does_not_make_one(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "registri"
    assert main([*command, "--storage", str(missing)]) == 1
    assert capsys.readouterr().err == f"scow registry: {missing}: no registry is here, for there is no registry.db\n"
    assert not missing.exists()


@pytest.mark.parametrize("count", ["-1", "257", "two"])
def test_a_number_of_workers_is_checked(count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "--storage", str(tmp_path), "--workers", count])
    assert end.value.code == 2
    assert f"--workers: '{count}' is no number from 0 to 256" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["serve", "ready", "gc", "check", "backup", "sync", "import", "user add", "robot rm"]
)
def test_help_says_what_a_command_does_and_what_its_exit_codes_mean(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: scow registry {command} [-h]")
    assert "Exit codes: 0 done, 1 not done or something is wrong, 2 the arguments are wrong." in shown
