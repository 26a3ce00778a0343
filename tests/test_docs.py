"""The documentation names things that exist and options that are current."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_every_function_of_the_equations_page_exists() -> None:
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    references = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(references) > 10
    for file, name in references:
        assert name in names_in(ROOT / "dynconv_mt" / file), f"{file} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_configuration_page_is_current() -> None:
    script = ROOT / "scripts" / "write_configuration_page.py"
    spec = importlib.util.spec_from_file_location("write_configuration_page", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    is_current = module.PAGE.read_text(encoding="utf-8") == module.page()
    assert is_current, "docs/configuration.md is out of date: run python scripts/write_configuration_page.py"
