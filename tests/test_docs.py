"""The documentation names things that exist and options that are current."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from dynconv_mt.cli.commands import COMMANDS
from dynconv_mt.cli.options import options_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("name", ["write_configuration_page", "write_equation_lines"])
def test_written_pages_are_current(name: str) -> None:
    script = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    is_current = module.PAGE.read_text(encoding="utf-8") == module.page()
    assert is_current, f"{module.PAGE.name} is out of date: run python scripts/{name}.py"


def test_the_equations_page_names_code() -> None:
    assert len(re.findall(r"::\w+`\]\([^)]*#L\d+\)", (ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))) > 10


def test_every_option_of_the_migration_page_exists() -> None:
    text = (ROOT / "docs" / "fairseq_migration.md").read_text(encoding="utf-8")
    table = text[text.index("## Flags and options") : text.index("## Where the results differ")]
    ours = [
        name for row in re.findall(r"^\|.*\|(.*)\|$", table, re.MULTILINE) for name in re.findall(r"`([^`]*)`", row)
    ]
    known = {"model", *(name for command in COMMANDS.values() for name in options_of(command.job))}
    options = {name.partition("=")[0] for name in ours if re.fullmatch(r"[a-z_.*]+(=\S+)?", name)}
    assert len(options) > 40
    for option in options:
        pattern = re.compile(re.escape(option.lstrip(".")).replace(r"\*", r"\w+"))
        is_ending = option.startswith(".")  # the rest of the option before it
        assert any(pattern.fullmatch(name.rpartition(".")[2] if is_ending else name) for name in known), option
