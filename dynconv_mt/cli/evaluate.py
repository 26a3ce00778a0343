"""`dc-evaluate`: score translations, compare systems, say where they differ."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dynconv_mt
from dynconv_mt.cli.jobs import EvaluateJob, as_list
from dynconv_mt.cli.lines import check_writable, read_aligned, read_input
from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.comet import CometMeasure, check_comet
from dynconv_mt.evaluate.config import ScoreKind
from dynconv_mt.evaluate.plot import check_plot, draw_report
from dynconv_mt.evaluate.report import Report, Texts, evaluate_systems
from dynconv_mt.evaluate.table import report_text
from dynconv_mt.files import write_file
from dynconv_mt.progress import Bar
from dynconv_mt.text.config import Tokenization, base_language
from dynconv_mt.text.corpus import read_lines

_LANG = re.compile(r"\.(?!gz$)([a-z]{2,3}([-_][A-Za-z]{2,4})?)(\.gz)?$")
_GENERAL = "en"  # where the language is not known; only abbreviations and a few signs depend on it


def run(job: EvaluateJob) -> int:
    """Read everything, compute everything, then print and write; the picture, which may fail, comes last."""
    _check_files(job)
    if job.comet_model is not None:
        check_comet(job.comet_model, job.source is not None)
    texts = _read(job)
    more = [CometMeasure(job.comet_model, texts.source, texts.references)] if job.comet_model is not None else []
    report = evaluate_systems(texts, job, train=_train_lines(job), more=more)
    print(report_text(report), end="")
    if job.output is not None:
        write_file(Path(job.output), _as_json(job, report))
    if job.plot is not None:
        write_file(Path(job.plot), draw_report(report, Path(job.plot).suffix))
    return 0


def _check_files(job: EvaluateJob) -> None:
    """Raise UserError where results could not be written."""
    for option in ("output", "plot"):
        check_writable(option, getattr(job, option))
    if job.plot is not None:
        check_plot(job.plot)
    for name in as_list(job.train):
        if not Path(name).is_file():
            raise UserError(f"train={name}: {'must be a file' if Path(name).exists() else 'no such file'}")


def _read(job: EvaluateJob) -> Texts:
    """All texts, each with as many lines as the first reference."""
    first, *others = as_list(job.reference)
    expected = read_input("reference", first)

    def read(option: str, name: str) -> list[str]:
        return read_aligned(option, name, f"reference={first}", expected)

    references = [expected, *(read("reference", name) for name in others)]
    files = as_list(job.hypotheses)
    systems = {name: read("hypotheses", file) for name, file in zip(_names(job, files), files, strict=True)}
    source = read("source", job.source) if job.source is not None else None
    return Texts(systems, references, _lang(job), source)


def _names(job: EvaluateJob, files: Sequence[str]) -> list[str]:
    """What the systems are called: as asked for, or by their files' names, with folders where those do not differ."""
    names = as_list(job.names) or [Path(file).name for file in files]
    return names if len(set(names)) == len(names) else list(files)


def _lang(job: EvaluateJob) -> str:
    """The language of the translations: as given, or by the ending of a reference's name."""
    if job.lang is not None:
        return job.lang
    for name in as_list(job.reference):
        found = _LANG.search(name)
        if found and len(base_language(found[1])) == 2:  # .deu, but not .txt
            return found[1]
    if job.tokenization is not Tokenization.none or ScoreKind.sacrebleu in job.metrics:
        print(
            f"dc-evaluate: the name of the reference does not end in a language code such as .de, and lang= is not "
            f"given: tokenised as {_GENERAL}",
            file=sys.stderr,
        )
    return _GENERAL


def _train_lines(job: EvaluateJob) -> Iterator[str] | None:
    files = as_list(job.train)
    lines = (line for file in files for line in read_lines(Path(file)))
    return iter(Bar(lines, desc="count words of train", unit=" lines")) if files else None


def _as_json(job: EvaluateJob, report: Report) -> str:
    content = report.to_dict()
    for system, file in zip(content["systems"], as_list(job.hypotheses), strict=True):
        system["file"] = file
    files = {"reference": as_list(job.reference), "source": job.source, "train": as_list(job.train)}
    content = {"version": dynconv_mt.__version__, "files": files, **content}
    return json.dumps(content, indent=2) + "\n"
