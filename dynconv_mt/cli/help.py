"""What `--help` prints: every option with default and meaning, from the dataclasses. Imports nothing slow."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from dynconv_mt.cli.commands import Command
from dynconv_mt.cli.options import REQUIRED, Option, Section, as_typed, sections_of
from dynconv_mt.cli.recipes import recipe_names, title
from dynconv_mt.models.presets import translation_preset_names

_COLUMN = 34  # where the meaning of an option begins
_GRAMMAR = """Options are given as name=value, in any order; of one given twice the last counts. Lists: [a,b]. No
value: null. Text needs no quotes but the shell's. The command line wins over the recipe, the recipe over defaults."""


def help_text(command: Command) -> str:
    """Return the text of `--help`, as wide as the terminal, at most 120 columns."""
    width = max(80, min(120, shutil.get_terminal_size((110, 24)).columns))
    return "\n".join(_lines(command, width)) + "\n"


def _lines(command: Command, width: int) -> Iterator[str]:
    sections = sections_of(command.job)
    yield f"{command.name}: {_lower_first(sections[0].help)}"
    yield ""
    choices = "".join([" [recipe=NAME]" * command.has_recipe, " [model=NAME]" * command.has_model])
    yield f"usage: {command.name}{choices} name=value ..."
    yield f"       {command.name} --help | --version | --cfg (print the composed options and stop)"
    yield ""
    yield from textwrap.wrap(_GRAMMAR, width)
    yield ""
    yield "Examples"
    yield from (f"  {example}" for example in command.examples)
    for section in sections:
        if not section.name.startswith("model.decoder"):
            yield from _section_lines(section, width)
    if command.has_model:
        yield from _choice_lines("model=NAME: architectures", dict.fromkeys(translation_preset_names(), ""), width)
    if command.has_recipe:
        recipes = {name: title(name) for name in recipe_names()}
        yield from _choice_lines("recipe=NAME, or the path of a file that ends in .yaml", recipes, width)


def _section_lines(section: Section, width: int) -> Iterator[str]:
    is_model = section.name.startswith("model")
    also = f" (and {section.name.replace('encoder', 'decoder')}.*)" if ".encoder" in section.name else ""
    about = f"{section.name}.*{also}: {section.help}" if section.name else "Options"
    yield ""
    yield from textwrap.wrap(about, width)
    for option in section.options:
        yield from _option_lines(option, is_model, width)


def _option_lines(option: Option, is_model: bool, width: int) -> Iterator[str]:
    """One option. The defaults of a model are those of the architecture."""
    default = "" if option.default is REQUIRED or is_model else as_typed(option.default)
    left = f"  {option.name}={default}"
    meaning = option.help
    if option.default is REQUIRED:
        meaning = f"(required) {meaning}"
    if option.kind.startswith("one of ") and option.kind.removeprefix("one of ") not in meaning:
        meaning = f"{meaning} [{option.kind}]"
    if option.only_for:
        meaning = f"{meaning} [{', '.join(option.only_for)}]"
    lines = textwrap.wrap(meaning, width - _COLUMN) or [""]
    if len(left) >= _COLUMN - 1:
        yield left
        left = ""
    yield f"{left:<{_COLUMN}}{lines[0]}".rstrip()
    yield from (" " * _COLUMN + line for line in lines[1:])


def _choice_lines(heading: str, names: dict[str, str], width: int) -> Iterator[str]:
    yield ""
    yield heading
    if any(names.values()):
        yield from (f"  {name:<{_COLUMN - 2}}{about}" for name, about in names.items())
    else:
        yield from textwrap.wrap(", ".join(names), width, initial_indent="  ", subsequent_indent="  ")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
