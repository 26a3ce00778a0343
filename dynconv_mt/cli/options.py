"""What a job can be asked for: every option with its type, its default and the comment beside its field."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from dynconv_mt.models.config import MIXER_CONFIGS, MixerConfig

TYPE = "type"  # the option that chooses among several config types
REQUIRED = object()  # the default of an option that has none

# fields that may hold any of several config types, each under the name that users know it by
POLYMORPHIC: Mapping[type, Mapping[str, type]] = {MixerConfig: MIXER_CONFIGS}


@dataclass(frozen=True)
class Option:
    """One field of a job, or of a section of it."""

    name: str  # as typed: train.max_updates
    type: Any  # its annotation
    default: Any  # REQUIRED if there is none
    help: str  # the comment beside the field
    only_for: tuple[str, ...] = ()  # variants of the section that have it; none named: all
    words: Mapping[str, Any] = field(default_factory=dict)  # that may be typed for certain values: auto

    @property
    def is_text(self) -> bool:
        """Whether any text is a value: a name, a path, or (type Any) a list of them."""
        return self.type is Any or str in {self.type, *_alternatives(self.type)}

    @property
    def is_optional(self) -> bool:
        """Whether null is a value."""
        return self.type is Any or type(None) in _alternatives(self.type)

    @property
    def kind(self) -> str:
        """What a value must be, in words."""
        return " or ".join([describe_type(self.type), *self.words])


@dataclass(frozen=True)
class Section:
    """The options that share a prefix."""

    name: str  # train; empty for the options without a prefix
    help: str  # the first paragraph of the config type's docstring
    options: tuple[Option, ...]


def sections_of(job: type) -> list[Section]:
    """Return the sections of a job type, outermost first."""
    return list(_walk("", job))


def options_of(job: type) -> dict[str, Option]:
    """Return all options of a job type by name."""
    return {option.name: option for section in sections_of(job) for option in section.options}


def _walk(prefix: str, config: type, example: Any = None) -> Iterator[Section]:
    """The sections of a config; `example`, where its owner has one, knows the owner's own defaults."""
    variants = POLYMORPHIC.get(config, {})
    options: dict[str, Option] = {}
    nested: list[tuple[str, type, Any]] = []
    variant: Any
    if variants:
        option = Option(f"{prefix}{TYPE}", str, "", f"which one: {', '.join(variants)}")
        options[option.name] = option
    for variant in variants.values() or [config]:
        hints = get_type_hints(variant)
        for entry in fields(variant):
            name, kind = f"{prefix}{entry.name}", hints[entry.name]
            if is_dataclass(kind):
                inner = _default(entry, example)
                nested.append((f"{name}.", kind, None if inner is REQUIRED else inner))  # type: ignore[arg-type]
            elif name not in options:
                owners = tuple(key for key, other in variants.items() if entry.name in _names(other))
                only_for = owners if len(owners) < len(variants) else ()
                default, words = _default(entry, example), entry.metadata.get("words", {})
                options[name] = Option(name, kind, default, _help(variant, entry.name, kind), only_for, words)
    if options:
        yield Section(prefix.removesuffix("."), _first_paragraph(config), tuple(options.values()))
    for section in nested:
        yield from _walk(*section)


def _names(config: Any) -> set[str]:
    return {field.name for field in fields(config)}


def _default(field: Field[Any], example: Any) -> Any:
    if hasattr(example, field.name):
        return getattr(example, field.name)
    if field.default is not MISSING:
        return field.default
    return REQUIRED if field.default_factory is MISSING else field.default_factory()


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of `X | Y`; none for any other type."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()


def describe_type(kind: Any) -> str:
    """Return what a value of this type must be, in words that follow "must be"."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "text or [text,text]"}
    if kind in words:
        return words[kind]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return f"a list in brackets, such as [a,b], each item {describe_type(item)}"
    members = [describe_type(member) for member in _alternatives(kind) if member is not type(None)]
    return " or ".join([*members, "null"]) if members else str(kind)


def as_typed(value: Any) -> str:
    """Return a default as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_typed, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help(config: type, name: str, kind: Any) -> str:
    """The comment beside a field; where there is none, what its enum says of itself. Users type null for None."""
    enums = [item for item in (kind, *get_args(kind)) if isinstance(item, type) and issubclass(item, StrEnum)]
    text = _comment(config, name) or " ".join(map(_first_paragraph, enums))
    return text.replace("None:", "null:")


def _comment(config: type, name: str) -> str:
    """The comment beside a field of a config type, from its source."""
    for owner in config.__mro__:
        found = _comments(owner.__module__).get((owner.__name__, name))
        if found is not None:
            return found
    return ""


@cache
def _comments(module: str) -> dict[tuple[str, str], str]:
    """The comments beside the fields of a module's classes; none where its source is not there."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if not path or not Path(path).is_file() or Path(path).suffix != ".py":
        return {}
    source = Path(path).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {
        (owner.name, field.target.id): lines.get(field.end_lineno or 0, "")
        for owner in ast.parse(source).body
        if isinstance(owner, ast.ClassDef)
        for field in owner.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def _first_paragraph(config: type) -> str:
    return " ".join((config.__doc__ or "").strip().split("\n\n")[0].split())
