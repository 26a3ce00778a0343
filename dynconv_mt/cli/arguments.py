"""The command line: `name=value` and a few flags, checked by name before anything slow is imported."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from dynconv_mt.cli.commands import Command
from dynconv_mt.cli.options import Option, options_of
from dynconv_mt.errors import UserError

FLAGS = {"--help": "help", "-h": "help", "--version": "version", "--cfg": "cfg"}
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_HOME = re.compile(r"(^|[\[,]\s*)~/")  # which not every shell replaces behind a =, and none in a list
_LIST_ITEM = re.compile(r"""\s*('[^']*'|"[^"]*"|[^,]*)\s*(?:,|$)""")


@dataclass
class Arguments:
    """What was typed."""

    flags: set[str] = field(default_factory=set)  # help, version, cfg
    values: dict[str, str] = field(default_factory=dict)  # by option; of an option given twice the last counts


def parse(argv: Iterable[str]) -> Arguments:
    """Return flags and values. Raises UserError for an argument that is neither."""
    arguments = Arguments()
    for argument in argv:
        if argument in FLAGS:
            arguments.flags.add(FLAGS[argument])
            continue
        name, is_assignment, value = argument.partition("=")
        if argument.startswith("-"):
            plain = name.lstrip("-").replace("-", "_")
            raise UserError(f"{argument}: no such flag; options have no dashes: {plain}={value or 'VALUE'}")
        if not is_assignment or not name:
            listed = "; quote a list with blanks in it: 'train=[a, b]'" if argument.endswith(("]", ",")) else ""
            raise UserError(f"{argument}: options are given as name=value, without blanks around the ={listed}")
        arguments.values[name] = _HOME.sub(lambda match: match[1] + os.path.expanduser("~/"), value)
    return arguments


def check_names(command: Command, names: Collection[str], where: str = "") -> None:
    """Raise UserError for names that are no options, with the nearest that are; `where` they stand goes before."""
    options = options_of(command.job)
    choices = [name for name, has in (("recipe", command.has_recipe), ("model", command.has_model)) if has]
    for name in names:
        if name in options or name in choices:
            continue
        inside = [option for option in options if option.startswith(f"{name}.")]
        if inside:
            raise UserError(f"{where}{name}: is a group of options; set them one by one, such as {inside[0]}=...")
        raise UserError(f"{where}{name}: no such option of {command.name}{_hint(name, [*options, *choices])}")


def _hint(name: str, known: Sequence[str]) -> str:
    """The options nearest to a wrong name: those like it as a whole, else those whose last part is like its own."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.75)
    last = name.rpartition(".")[2]
    near += [option for option in known if option.rpartition(".")[2] == last]
    if not near:
        parts = {option.rpartition(".")[2] for option in known}
        alike = difflib.get_close_matches(last, parts, n=3, cutoff=0.6)
        near = [option for part in alike for option in known if option.rpartition(".")[2] == part]
    near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    names = list(dict.fromkeys(near))[:4]
    return f"; did you mean {' or '.join(names)}? --help lists all" if names else "; --help lists all"


def to_override(option: Option, value: str) -> str:
    """Return `name=value` in Hydra's grammar; text is taken as it is, whatever characters it holds.

    Raises UserError for a value that can be no boolean, since true and false are all that Hydra should see there.
    """
    if option.type is bool and value.lower() not in ("true", "false"):
        raise UserError(f"{option.name}={value}: must be true or false")
    value = str(option.words.get(value, value))
    if option.is_text and not (option.is_optional and value == "null"):
        is_list = option.kind.startswith("text or [") and value.startswith("[") and value.endswith("]")
        value = f"[{','.join(map(quote, _items(value[1:-1])))}]" if is_list else quote(value)
    return f"{option.name}={value}"


def _items(value: str) -> list[str]:
    """The items of a list that was typed as a,b,"c, d"."""
    items = [match[1].strip() for match in _LIST_ITEM.finditer(value)]
    return [item for item in items if item]


def quote(text: str) -> str:
    """Return text as a quoted value of Hydra's grammar, free of interpolation. Quotes around it are not part of it."""
    if _QUOTED.fullmatch(text):
        text = text[1:-1]
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, text) + "'"
