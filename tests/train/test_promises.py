"""docs/reliability.md promises nothing without a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_tests_that_exist(root: Path) -> None:
    page = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    promised = page[page.index("## Promised") : page.index("## What may differ")]
    rows = [row for row in re.findall(r"^\|.*\|$", promised, re.MULTILINE) if not row.startswith(("| promise", "|---"))]
    assert len(rows) > 30
    for row in rows:
        tests = re.findall(r"`((?:\w+/)?\w+\.py)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert name in functions_of(root / "tests" / file), f"tests/{file} has no {name}"
