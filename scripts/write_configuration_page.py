"""Write docs/configuration.md: every option of every command, from the dataclasses that hold them.

Usage: python scripts/write_configuration_page.py        (tests/test_docs.py says when the page is out of date)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dynconv_mt.cli.commands import COMMANDS, Command
from dynconv_mt.cli.options import REQUIRED, Option, Section, as_typed, sections_of
from dynconv_mt.cli.recipes import recipe_names, title
from dynconv_mt.models.config import ConvConfig
from dynconv_mt.models.presets import SIZES, preset, preset_names

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
INTRODUCTION = """# Configuration

Every option of every command, with its default and unit. This page is written by
`scripts/write_configuration_page.py` from the dataclasses that hold the options; `--help` prints the same, and
`--cfg` prints a command's composed options without running it, and checks them where none is missing. What the
commands that take `recipe=` print is a recipe of the same options: `dc-train ... --cfg > mine.yaml`, then `dc-train
recipe=mine.yaml`.

Options are given as `name=value`. Lists are written `[a,b]` (in zsh within quotation marks: `'name=[a,b]'`), no value
is `null`. What is typed wins over the recipe, and the recipe over the defaults below. An unknown name or a value of the
wrong kind ends the command with exit code 2 and says what was expected.

## Environment variables

| variable | meaning |
|---|---|
| `DYNCONV_MT_OPS` | `reference`: plain torch instead of compiled kernels; `compiled`: an error where there are none |
| `DYNCONV_MT_CPU` | `avx512`, `avx2` or `portable`: the instruction set, instead of the processor's highest |
| `DYNCONV_MT_PLUGINS` | `module[,module]` to import, which register mixers and architectures |
| `DYNCONV_MT_CUDA_ARCHS` | when building: GPU architectures to compile for, such as `80;90` |
| `CXX`, `NVCC`, `CXXFLAGS`, `NVCCFLAGS`, `LDFLAGS` | when building: compilers and their options |"""
RECIPES = """
## Recipes

`recipe=NAME`, or the path of a file of your own that ends in `.yaml`. A recipe has the sections `preprocess`, `train`
and `generate`, each with options of that command, and any of them may be left out;
[multi30k.yaml](../configs/recipe/multi30k.yaml) is one to begin with.
"""
MIXERS = ("transformer", "lightconv", "dynamicconv")
ARCHITECTURES = """
## Architectures

`model=<mixer>_<size>` of `dc-train`, to be given unless a recipe names one, takes one of the mixers {mixers}
and one of these sizes.
`model.*` changes any part. Dropout is that of sub-blocks, of attention and of a convolution's taps. All of a model:
`dc-train model=NAME --cfg`.

| size | width / feed-forward | heads | a Transformer's layers | kernel sizes, a layer each | GLU | dropout | tying |
|---|---|---|---|---|---|---|---|"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join([INTRODUCTION, *_recipes(), *_architectures(), *_commands()]) + "\n"


def _recipes() -> Iterator[str]:
    yield RECIPES
    yield from (f"- `{name}`: {title(name)}" for name in recipe_names())


def _architectures() -> Iterator[str]:
    mixers = ", ".join(f"`{mixer}`" for mixer in MIXERS)
    yield ARCHITECTURES.format(mixers=mixers)
    yield from (_size(name) for name in SIZES)
    names = ", ".join(f"`{name}`" for name in preset_names() if preset(name).is_language_model)
    yield f"\nFrom Python only, through `dynconv_mt.models.preset`: the language models {names}."


def _size(name: str) -> str:
    """A row of the table: what the three architectures of a size share, and where they differ."""
    transformer, convolution = preset(f"transformer_{name}"), preset(f"dynamicconv_{name}")
    encoder, decoder = convolution.encoder.mixer, convolution.decoder.mixer
    assert isinstance(encoder, ConvConfig) and isinstance(decoder, ConvConfig)
    cells = (
        f"`{name}`",
        f"{convolution.dim} / {convolution.encoder.ffn_dim}",
        f"{encoder.heads}",
        f"{transformer.encoder.layers} + {transformer.decoder.layers}",
        f"{encoder.kernel_sizes} + {decoder.kernel_sizes}",
        "yes" if encoder.glu else "no",
        f"{convolution.dropout} / {convolution.attention_dropout} / {encoder.weight_dropout}",
        f"{convolution.tying}",
    )
    return f"| {' | '.join(cells)} |"


def _commands() -> Iterator[str]:
    described: dict[str, tuple[str, Section]] = {}  # sections that several commands share, as the first has them
    for command in COMMANDS.values():
        yield from _command(command, described)


def _command(command: Command, described: dict[str, tuple[str, Section]]) -> Iterator[str]:
    sections = sections_of(command.job)
    yield f"\n## {command.name}\n\n{sections[0].help}\n\n```"
    yield from command.examples
    yield "```"
    for section in sections:
        if section.name.startswith("model.decoder"):
            continue
        if section.name and section.name in described:
            first, same = described[section.name]
            yield f"\n`{section.name}.*`: as for {first}{_differences(section, same)}."
            continue
        described.setdefault(section.name, (command.name, section))
        yield from _section(section)


def _differences(section: Section, same: Section) -> str:
    """The defaults of a section that another command's section of the name does not share."""
    defaults = {option.name: option.default for option in same.options}
    differing = [option for option in section.options if defaults[option.name] != option.default]
    return "".join(f", but `{option.name}={as_typed(option.default)}`" for option in differing)


def _section(section: Section) -> Iterator[str]:
    if section.name:
        also = f" and `{section.name.replace('encoder', 'decoder')}.*`" if ".encoder" in section.name else ""
        yield f"\n### `{section.name}.*`{also}\n\n{section.help}"
    yield "\n| option | default | meaning |\n|---|---|---|"
    is_model = section.name.startswith("model")
    yield from (_row(option, is_model) for option in section.options)


def _row(option: Option, is_model: bool) -> str:
    if option.default is REQUIRED:
        default = "required"
    else:
        default = "the architecture's" if is_model else f"`{as_typed(option.default)}`"
    only = f" Only for: {', '.join(option.only_for)}." if option.only_for else ""
    meaning = f"{option.help} ({option.kind}){only}".replace("|", "\\|")
    return f"| `{option.name}` | {default} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
