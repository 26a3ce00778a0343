"""Where the files of a corpus lie, and what `dc-preprocess` is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from dynconv_mt.data.output import build_folder, foreign_entries
from dynconv_mt.errors import UserError
from dynconv_mt.files import write_file
from dynconv_mt.text.corpus import find_pair

Options = dict[str, str | list[str]]  # of dc-preprocess
Pair = tuple[str, str]
SPLITS = ("train", "valid", "test")


def plain_splits(folder: Path, src: str, tgt: str, names: Sequence[str] = SPLITS) -> Options:
    """Return the options for `folder/<name>.<language>`, plain or gzip. Raises UserError where one is missing."""
    for name in names:
        find_pair(str(folder / name), src, tgt)
    return {split: str(folder / name) for split, name in zip(SPLITS, names, strict=True)}


def pair_up(name: str, sources: Iterable[str], targets: Iterable[str]) -> Iterator[Pair]:
    """Yield the lines of two sides in step. Raises UserError where one side ends before the other."""
    for number, (src, tgt) in enumerate(zip_longest(sources, targets), start=1):
        if src is None or tgt is None:
            raise UserError(f"{name}: one side ends after line {number - 1}, the other goes on")
        yield src, tgt


@contextmanager
def corpus_folder(folder: Path, languages: tuple[str, str]) -> Iterator[Path]:
    """Yield a temporary folder for `{train,valid,test}.<language>` that takes the place of `folder` when it is whole.

    Raises UserError where `folder` holds anything but such files of an earlier call.
    """
    own = {f"{split}.{lang}" for split in SPLITS for lang in languages}
    if others := foreign_entries(folder, own):
        raise UserError(
            f"{folder}: is where the text of the splits goes, and holds something else ({others[0]}); move that away, "
            "or choose another output folder"
        )
    with build_folder(folder, replace=True, option="") as partial:
        yield partial


def write_pairs(prefix: Path, languages: tuple[str, str], pairs: Sequence[Pair]) -> None:
    """Write `prefix.<language>` for both sides."""
    for side, lang in enumerate(languages):
        write_file(prefix.with_name(f"{prefix.name}.{lang}"), "".join(f"{pair[side]}\n" for pair in pairs))


def as_arguments(options: Options) -> Iterator[str]:
    """Yield `name=value` as dc-preprocess takes it."""
    for name, value in options.items():
        if isinstance(value, list):
            value = f"[{','.join(_item(item) for item in value)}]"
        yield f"{name}={value}"


def _item(text: str) -> str:
    return f'"{text}"' if "," in text or text != text.strip() else text
