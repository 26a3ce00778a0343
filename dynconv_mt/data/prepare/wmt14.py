"""WMT'14 English-German: three training corpora, newstest2013 to validate and newstest2014 to test."""

from __future__ import annotations

from pathlib import Path

from dynconv_mt.data.prepare.layout import Options, corpus_folder, pair_up, write_pairs
from dynconv_mt.data.prepare.markup import segments
from dynconv_mt.errors import UserError
from dynconv_mt.text.corpus import find_pair, read_lines

SRC, TGT = "en", "de"
TRAIN = ("europarl-v7.de-en", "commoncrawl.de-en", "news-commentary-v9.de-en")
# per split: prefixes of plain files, and the two .sgm files without their endings
HELD_OUT = {
    "valid": (("newstest2013", "valid"), ("newstest2013-src.en", "newstest2013-ref.de")),
    "test": (("newstest2014", "test"), ("newstest2014-deen-src.en", "newstest2014-deen-ref.de")),
}
FOLDERS = ("", "training", "dev", "test-full")  # where the published archives put their files


def prepare(source: Path, out: Path) -> Options:
    """Return the options of dc-preprocess for a folder with WMT'14.

    `source` holds the training corpora under their published names, or as `train.{en,de}`; and the two news tests as
    plain files, as .sgm, or as `valid` and `test`. Anything may be gzip and lie in the archives' folders. What comes
    as .sgm is written to `out` as text.
    """
    options: Options = {"train": _training(source)}
    packed: dict[str, list[Path]] = {}
    for split, (names, sgm) in HELD_OUT.items():
        plain = [prefix for name in names for prefix in _find(source, name)]
        if not plain:
            packed[split] = [_find_sgm(source, name, split) for name in sgm]
        options[split] = plain[0] if plain else str(out / split)
    if packed:
        with corpus_folder(out, (SRC, TGT)) as partial:
            for split, paths in packed.items():
                pairs = pair_up(split, *(segments(read_lines(path)) for path in paths))
                write_pairs(partial / split, (SRC, TGT), list(pairs))
    return options


def _training(source: Path) -> list[str]:
    found = {name: _find(source, name) for name in TRAIN}
    if all(found.values()):
        return [prefixes[0] for prefixes in found.values()]
    whole = _find(source, "train")
    if whole:
        return whole[:1]
    missing = [name for name, prefixes in found.items() if not prefixes]
    raise UserError(f"{source}: {', '.join(missing)} (.en and .de) not found, and no train.en and train.de either")


def _find(source: Path, name: str) -> list[str]:
    """The prefixes of that name for which both sides are there."""
    found = []
    for folder in FOLDERS:
        prefix = str(source / folder / name)
        try:
            find_pair(prefix, SRC, TGT)
        except UserError:
            continue
        found.append(prefix)
    return found


def _find_sgm(source: Path, name: str, split: str) -> Path:
    for folder in FOLDERS:
        for ending in (".sgm", ".sgm.gz"):
            path = source / folder / f"{name}{ending}"
            if path.is_file():
                return path
    names = " nor ".join([*(f"{plain}.{SRC}" for plain in HELD_OUT[split][0]), f"{name}.sgm"])
    raise UserError(f"{source}: no {split} set: neither {names} is there, plain or gzip")
