"""The house stands as ARCHITECTURE.md says: imports point downwards, modules say what they do, documents are true."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "scow"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SCRIPTS = sorted(path for path in [*ROOT.glob("script/*"), *ROOT.glob(".ci/*")] if path.is_file())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_floors_import_downwards_only() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_says_what_it_is_responsible_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_modules_that_documents_name_exist(document: Path) -> None:
    named = set(re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.py)`", document.read_text()))
    assert not [module for module in named if not ((PACKAGE / module).exists() or (ROOT / module).exists())]


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_can_be_read(script: Path) -> None:
    first = script.read_text().splitlines()[0]
    if script.name != "lib.sh":  # which is read by the others
        assert first.startswith("#!")
        assert os.access(script, os.X_OK)
    if "python" not in first:
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert not done.stderr
