"""Who may import whom (docs/architecture.md): strictly downward, siblings in one row not at all."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "dynconv_mt"
ROWS = [
    {"text", "ops"},
    {"data", "models"},
    {"search", "train"},
    {"evaluate", "translate", "convert"},
    {"serve"},
    {"cli"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
# single modules that every row may use
GROUND = {"compute", "errors", "files", "lazy", "plugins", "progress", "runtime", "tables"}
ONLY_IN = {"hydra": {"cli/hydra.py"}, "omegaconf": {"cli/hydra.py"}}  # libraries and the only files that know them
SOURCES = sorted((Path(__file__).resolve().parent.parent / PACKAGE).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute, so that one sees where they lead"
            assert node.module
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def violations(path: Path) -> Iterator[str]:
    relative = path.relative_to(Path(__file__).resolve().parent.parent / PACKAGE)
    here = relative.parts[0].removesuffix(".py")
    for line, module in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top, *rest = module.split(".")
        if str(relative) not in ONLY_IN.get(top, {str(relative)}):
            yield f"{relative}:{line} imports {module}"
        if here == "text" and top == "torch":
            yield f"{relative}:{line} text must not import torch"
        there = rest[0] if top == PACKAGE and rest else here
        if here in GROUND and there in ROW_OF:
            yield f"{relative}:{line} {here} lies below {there}"
        if there != here and here in ROW_OF and there in ROW_OF and ROW_OF[there] >= ROW_OF[here]:
            yield f"{relative}:{line} {here} must not import {there}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "-".join(path.parts[-2:]))
def test_imports_lead_downward(path: Path) -> None:
    assert list(violations(path)) == []


def test_every_part_has_a_row() -> None:
    parts = {path.relative_to(path.parent).stem for path in SOURCES if path.parent.name == PACKAGE}
    parts |= {path.parent.name for path in SOURCES if path.parent.parent.name == PACKAGE}
    assert parts - {"__init__", PACKAGE} <= ROW_OF.keys() | GROUND


def test_every_package_is_in_the_wheel(root: Path) -> None:
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(root).parts) for path in SOURCES if path.name == "__init__.py"}
    found |= {f"{PACKAGE}.configs", f"{PACKAGE}.configs.recipe"}
    assert listed == found


@pytest.mark.parametrize(
    "module",
    [
        "cli.main",
        "cli.help",
        "cli.jobs",
        "data.config",
        "data.preprocess",
        "evaluate.config",
        "models.config",
        "models.presets",
        "runtime",
        "search.config",
        "text.config",
        "train.config",
    ],
)
def test_options_are_known_without_torch_and_hydra(module: str) -> None:
    code = f"import sys, {PACKAGE}.{module}; print([m for m in ('torch', 'hydra', 'sacremoses') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
