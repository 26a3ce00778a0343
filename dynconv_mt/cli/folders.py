"""What the commands read from a data folder, beyond its token stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynconv_mt.data.manifest import read_manifest
from dynconv_mt.errors import UserError
from dynconv_mt.files import hash_file
from dynconv_mt.text.corpus import read_lines

_REMEDY = "The data folder is damaged or incomplete: make it again with dc-preprocess"


@dataclass(frozen=True)
class RawSplit:
    """The raw lines of a held-out split; line i of one side translates line i of the other."""

    src: str  # language codes
    tgt: str
    sources: list[str]
    targets: list[str]


def read_raw_split(data_dir: str, split: str) -> RawSplit:
    """Return the raw lines of `valid` or `test`. Raises UserError where the data folder lacks them or some of them."""
    manifest = read_manifest(data_dir)
    if split not in manifest.splits:
        raise UserError(
            f"data_dir={data_dir}: has no {split} split ({', '.join(manifest.splits)}); preprocess with {split}=CORPUS"
        )
    paths = [Path(data_dir) / split / f"raw.{lang}" for lang in (manifest.src, manifest.tgt)]
    sources, targets = (list(read_lines(path)) for path in paths)
    expected = manifest.splits[split].sentences
    for path, lines in zip(paths, (sources, targets), strict=True):
        if len(lines) != expected:
            raise UserError(f"{path}: has {len(lines)} lines where {expected} were written. {_REMEDY}")
        written = manifest.raw.get(f"{split}/{path.name}")
        if written is not None and hash_file(path) != written:
            raise UserError(f"{path}: was altered. {_REMEDY}")
    return RawSplit(manifest.src, manifest.tgt, sources, targets)
