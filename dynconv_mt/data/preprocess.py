"""From raw parallel text to a data folder: options, checks, and the command's whole run (the steps: build.py).

    DATA/data.json                      what the folder holds (manifest.py); written last
    DATA/text/                          the text pipeline (text/pipeline.py)
    DATA/train/, valid/, test/          token stores (store.py)
    DATA/valid/raw.<language>           the raw lines of a held-out split, which are never cleaned: line i is sentence i
    DATA/stats.json, DATA/summary.txt   counts, for programs and to read

This module imports quickly, since the command line reads its options here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynconv_mt.data.manifest import MANIFEST, Manifest, read_manifest
from dynconv_mt.data.output import build_folder, check_folder, check_replaceable, clean_stale
from dynconv_mt.data.workers import Workers
from dynconv_mt.errors import UserError
from dynconv_mt.files import beyond_link
from dynconv_mt.text.config import FOLDER, BpeConfig, CleanConfig, TextConfig, Tokenization, base_language
from dynconv_mt.text.corpus import ParallelFile, find_pair

if TYPE_CHECKING:
    from dynconv_mt.text.pipeline import TextPipeline

STATS, SUMMARY, TEXT = "stats.json", "summary.txt", FOLDER
SPLITS = ("valid", "test", "train")  # train comes last, so that mistakes in the small ones show at once
MAX_WORKERS = 1024
UNSPACED = ("zh", "ja", "th", "lo", "km", "my")  # a whole clause of these languages is one token of Moses'


@dataclass(kw_only=True)
class PreprocessConfig:
    """Options of `dc-preprocess`.

    A corpus is named by what its two files have in common: `a/train` stands for `a/train.en` and `a/train.de`, plain or
    with `.gz` after it. Several may be given as a list.
    """

    src: str  # source language code, which is also the ending of its files
    tgt: str  # target language code, which is also the ending of its files
    train: Any  # training corpus or corpora; cleaned
    valid: Any = None  # validation corpus or corpora; every line stays
    test: Any = None  # test corpus or corpora; every line stays
    out_dir: str  # folder to make
    text_from: str | None = None  # take text.* and the vocabulary from this data folder, run or model; learn none
    text: TextConfig = field(default_factory=TextConfig)
    bpe: BpeConfig = field(default_factory=BpeConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    workers: int = 0  # processes; 0: one per core
    overwrite: bool = False  # replace another run's data folder at out_dir

    def check(self) -> None:
        """Raise UserError for values that break a rule, before any file is read."""
        for option, lang in (("src", self.src), ("tgt", self.tgt)):
            if not lang or "/" in lang or lang != lang.strip():
                raise UserError(f"{option}={lang}: must be a language code such as en, the ending of its files")
        if self.src == self.tgt:
            raise UserError(f"src={self.src} tgt={self.tgt}: must differ, since they tell the two files apart")
        if Path(self.out_dir).name in ("", ".."):
            raise UserError(f"out_dir={self.out_dir}: must name the folder to make")
        if self.workers < 0:
            raise UserError(f"workers={self.workers}: must be a number of processes, or 0 for one per core")
        if self.workers > MAX_WORKERS:
            raise UserError(
                f"workers={self.workers}: must be at most {MAX_WORKERS}; more than one per core gains nothing"
            )
        if not self.prefixes("train"):
            raise UserError(f"train={self.train}: must name the training corpus")
        for split in ("valid", "test"):
            if getattr(self, split) is not None and not self.prefixes(split):
                raise UserError(f"{split}={getattr(self, split)}: must name a corpus; leave the option out for none")
        if self.text_from == "":
            raise UserError("text_from=: must name a data folder, run or model; leave the option out for none")
        self.clean.check()
        if self.text_from is None:  # else text is another one's, and bpe has no effect
            self.text.check()
            self.bpe.check()
            self.check_ratio()

    def check_ratio(self) -> None:
        """Raise UserError where the ratio of lengths would drop most pairs for the way a language is written."""
        ratio, is_split = self.clean.ratio, self.text.tokenization is Tokenization.none
        if ratio is None or self.clean.after_bpe or is_split:
            return
        for option, lang in (("src", self.src), ("tgt", self.tgt)):
            if base_language(lang) in UNSPACED:
                raise UserError(
                    f"clean.ratio={ratio:g}: compares numbers of tokens, and {option}={lang} writes no blanks between "
                    "words, so that most of its sentences would be dropped; set clean.after_bpe=true, or "
                    "clean.ratio=null"
                )

    def prefixes(self, split: str) -> list[str]:
        """Return the corpora of a split, in a list whichever way they were given."""
        value = getattr(self, split)
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        names = value if is_list else [] if value is None else [value]
        return [str(name) for name in names if str(name)]

    def content_options(self) -> dict[str, Any]:
        """Return the options that, with the input files, decide what the data folder holds, as they are typed."""
        options: dict[str, Any] = {"src": self.src, "tgt": self.tgt}
        for section in ("text", "clean") if self.text_from is not None else ("text", "bpe", "clean"):
            options |= {f"{section}.{name}": value for name, value in asdict(getattr(self, section)).items()}
        return options


@dataclass
class Summary:
    """What `preprocess` returns; printed, it is a readable summary."""

    out_dir: Path
    stats: dict[str, Any]  # the content of stats.json
    text: str

    def __str__(self) -> str:
        return self.text


def preprocess(config: PreprocessConfig) -> Summary:
    """Make the data folder `config.out_dir` and return its summary.

    A finished folder of the same options and input files is left as it is, and the summary says so; a folder that holds
    anything else is refused. The result does not depend on the number of workers.
    Raises UserError for a mistake in options or files. Whatever is raised, Ctrl-C and SIGTERM included, nothing is left
    at `out_dir` or beside it.
    """
    config.check()
    text = _given_text(config)
    if text is not None:
        config = replace(config, text=text.config)
        config.check_ratio()
    files = _find_files(config)
    out_dir = Path(config.out_dir)
    clean_stale(beyond_link(out_dir))  # a folder that a killed process had set aside is there again
    if _is_finished(config, text, files, out_dir):
        return _summary(out_dir, before=f"{out_dir} holds the result of this very run: nothing to do\n\n")
    from dynconv_mt.data.build import build_data  # not before: --help need not wait for its imports

    started = time.monotonic()
    with build_folder(out_dir, replace=config.overwrite) as folder, Workers(config.workers) as workers:
        num_pairs = build_data(config, text, files, folder, workers)
    seconds = time.monotonic() - started
    rate = f"{num_pairs:,} pairs in {seconds:.1f} s: {num_pairs / seconds:,.0f} pairs/s with {workers.count} processes"
    return _summary(out_dir, after=f"\n{rate}\n{out_dir} is ready\n")


def _given_text(config: PreprocessConfig) -> TextPipeline | None:
    """The text pipeline that text_from= names; None where one is to be learned."""
    if config.text_from is None:
        return None
    from dynconv_mt.text.pipeline import TextPipeline, find_text  # not before: --help need not wait for its imports

    text = TextPipeline.load(find_text(config.text_from, "text_from"))
    if (text.src, text.tgt) != (config.src, config.tgt):
        raise UserError(
            f"text_from={config.text_from}: is from {text.src} to {text.tgt}, and src={config.src} tgt={config.tgt} "
            "were given; its languages and direction are to be the same, and files end in its codes"
        )
    return text


def _find_files(config: PreprocessConfig) -> dict[str, list[ParallelFile]]:
    """The files of each split that was asked for."""
    return {
        split: [find_pair(prefix, config.src, config.tgt, split) for prefix in config.prefixes(split)]
        for split in SPLITS
        if config.prefixes(split)
    }


def _is_finished(
    config: PreprocessConfig, text: TextPipeline | None, files: dict[str, list[ParallelFile]], out_dir: Path
) -> bool:
    """Whether `out_dir` holds this very run; False where it may be built, UserError where it may not."""
    typed = f"out_dir={config.out_dir}"
    check_folder("out_dir", config.out_dir, is_renamed=True)
    if not out_dir.exists():
        return False
    if not any(out_dir.iterdir()):
        return False
    try:
        manifest = read_manifest(out_dir)
    except UserError:
        raise UserError(f"{typed}: holds other files than this program's data; choose another folder") from None
    if config.overwrite:
        check_replaceable("out_dir", out_dir, (MANIFEST, SUMMARY, STATS, TEXT, *SPLITS))
        return False
    differences = manifest.differences(config.content_options(), files)
    if text is not None and text.fingerprint != manifest.fingerprint:
        differences.append("text_from")
    if differences:
        raise UserError(
            f"{typed}: holds the data of another run (different: {', '.join(differences)}); choose another folder, or "
            "overwrite=true to replace it"
        )
    _check_sound(typed, manifest, out_dir)
    return True


def _check_sound(typed: str, manifest: Manifest, out_dir: Path) -> None:
    """Raise UserError where a part of a finished folder is missing or was altered, as far as sizes show it."""
    from dynconv_mt.data.store import TokenStore  # not before: --help need not wait for its imports
    from dynconv_mt.text.pipeline import TextPipeline

    try:
        TextPipeline.load(out_dir / TEXT)
        for split in manifest.splits:
            TokenStore.open(out_dir / split)
        if missing := [name for name in (SUMMARY, STATS) if not (out_dir / name).is_file()]:
            raise UserError(f"{missing[0]} is missing")
        json.loads((out_dir / STATS).read_text(encoding="utf-8"))
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{typed}: is damaged ({error}); overwrite=true makes it again") from None


def _summary(out_dir: Path, before: str = "", after: str = "") -> Summary:
    text = (out_dir / SUMMARY).read_text(encoding="utf-8")
    return Summary(out_dir, json.loads((out_dir / STATS).read_text(encoding="utf-8")), before + text + after)
