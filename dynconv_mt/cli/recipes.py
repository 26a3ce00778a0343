"""Recipes: files of options with a name, one section a command. Those of the package, or a file of the user's."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from dynconv_mt.errors import UserError

PACKAGE = "dynconv_mt.configs.recipe"
SUFFIXES = (".yaml", ".yml")


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(PACKAGE).iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(name: str) -> str:
    """Return the YAML of a recipe: a name of `recipe_names`, or the path of a file that ends in .yaml."""
    if name.endswith(SUFFIXES):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe={name}: cannot be read ({error})") from None
    names = recipe_names()
    if name not in names:
        raise UserError(
            f"recipe={name}: no such recipe; there are {', '.join(names)}; or give the path of a .yaml file"
        )
    return (files(PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8")


def title(name: str) -> str:
    """Return what a recipe says of itself: its first line, a comment."""
    return read_recipe(name).partition("\n")[0].lstrip("# ")
