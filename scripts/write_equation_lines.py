"""Let the links of docs/equations.md lead to the lines where functions and classes begin.

Usage: python scripts/write_equation_lines.py        (tests/test_docs.py says when a line has moved)
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "equations.md"
LINK = re.compile(r"\[`(?P<file>[\w/]+\.py)::(?P<name>\w+)`\]\([^)]*\)")


def page() -> str:
    """Return the text of the page with every link at its line. Raises ValueError for a name that its file lacks."""
    return LINK.sub(_link, PAGE.read_text(encoding="utf-8"))


def _link(match: re.Match[str]) -> str:
    file, name = match["file"], match["name"]
    tree = ast.parse((ROOT / "dynconv_mt" / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return f"[`{file}::{name}`](../dynconv_mt/{file}#L{node.lineno})"
    raise ValueError(f"docs/equations.md: {file} has no {name}")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
