"""The embedded corpus as files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dynconv_mt.data.toy.dictionary import word_for_word
from dynconv_mt.data.toy.grammar import Pair, sentence
from dynconv_mt.data.toy.sampling import Sampler
from dynconv_mt.errors import UserError
from dynconv_mt.files import write_file

_PATIENCE = 20_000  # draws without a new sentence after which there are none


@dataclass(kw_only=True)
class Sizes:
    """Sentence pairs in each split."""

    train: int = 12_000
    valid: int = 300
    test: int = 400

    def __post_init__(self) -> None:
        """Raise UserError for a size below 1."""
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"--{name}={value}: must be at least 1")


def make_corpus(sizes: Sizes, seed: int = 1) -> dict[str, list[Pair]]:
    """Return the pairs of each split; no source and no target sentence occurs twice, in the same split or in another.

    The held-out splits are drawn first, so they do not depend on the size of the training split.
    """
    draw = Sampler(seed)
    sources: set[str] = set()
    targets: set[str] = set()
    splits: dict[str, list[Pair]] = {"test": [], "valid": [], "train": []}
    for name, pairs in splits.items():
        misses = 0
        while len(pairs) < getattr(sizes, name):
            source, target = sentence(draw)
            misses += 1
            if source not in sources and target not in targets:
                sources.add(source)
                targets.add(target)
                pairs.append((source, target))
                misses = 0
            if misses > _PATIENCE:
                raise UserError(f"--{name}={getattr(sizes, name)}: the grammar has not so many different sentences")
    return splits


def write_corpus(folder: Path | str, sizes: Sizes | None = None, seed: int = 1) -> None:
    """Write {train,valid,test}.{en,de} and the baseline test.word_for_word.de; same sizes and seed, same bytes.

    Raises UserError, and writes nothing, where `folder` holds other text under one of these names.
    """
    folder = Path(folder)
    corpus = make_corpus(sizes or Sizes(), seed)
    files = {"test.word_for_word.de": _text(word_for_word(source for source, _ in corpus["test"]))}
    for name, pairs in corpus.items():
        files[f"{name}.en"] = _text(source for source, _ in pairs)
        files[f"{name}.de"] = _text(target for _, target in pairs)
    for name, text in files.items():
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode():
            raise UserError(f"{folder / name}: exists and holds another text; remove it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_file(folder / name, text)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
