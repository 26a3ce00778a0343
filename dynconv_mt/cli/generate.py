"""`dc-generate`: translate a file or a preprocessed split, and score it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from dynconv_mt.cli.folders import RawSplit, read_raw_split
from dynconv_mt.cli.jobs import STDIO, GenerateJob, as_list
from dynconv_mt.cli.lines import check_writable, read_aligned, read_input
from dynconv_mt.errors import UserError
from dynconv_mt.evaluate import EvaluateConfig, corpus_scores
from dynconv_mt.evaluate.config import DETOKENIZED, ScoreKind
from dynconv_mt.evaluate.scores import check_scoring
from dynconv_mt.files import GrowingFile, growing_files, write_file
from dynconv_mt.progress import unless_closed
from dynconv_mt.text.config import Tokenization
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.translate import Translation, Translator, load_translator

logger = logging.getLogger(__name__)


def run(job: GenerateJob) -> int:
    """Translate, write, score; everything that can fail is checked before the translation begins."""
    job = replace(job, output=None) if job.output == STDIO else job
    for option in ("output", "details", "scores_json"):
        check_writable(option, getattr(job, option))
    translator = load_translator(
        as_list(job.model_dir),
        device=job.device,
        precision=job.precision,
        threads=job.threads,
        search=job.search,
        batch=job.batch,
    )
    sources, references = _read_texts(job, translator.text)
    scoring = _scoring(job.evaluate, translator.text) if references else None
    forms = {name: form for name, form in ((job.output, _text), (job.details, _details)) if name is not None}
    with growing_files(map(Path, forms)) as files:
        is_kept = bool(references) or job.output is None
        hypotheses = _translate(translator, sources, list(zip(files, forms.values(), strict=True)), is_kept)
        actions: list[Callable[[], object]] = [file.commit for file in files]
        if scoring is not None:
            actions.append(partial(_score, job, hypotheses, references, translator.text.tgt, scoring))
        if job.output is None:  # after all else, since its reader may be gone
            actions.append(partial(sys.stdout.writelines, (f"{line}\n" for line in hypotheses)))
        _attempt_all(actions)
    return 0


def _attempt_all(actions: Sequence[Callable[[], object]]) -> None:
    """Do all of it, also where a part fails; then raise the first error."""
    errors: list[OSError | UserError] = []
    for action in actions:
        try:
            action()
        except (OSError, UserError) as error:
            errors.append(error)
    for other in errors[1:]:
        logger.warning(other)
    if errors:
        raise errors[0]


def _read_texts(job: GenerateJob, text: TextPipeline) -> tuple[list[str], list[list[str]]]:
    """The lines to translate and, for each reference translation, its lines."""
    if job.data_dir is not None:
        raw = read_raw_split(job.data_dir, job.split or "test")
        _check_languages(job.data_dir, raw, text)
        return raw.sources, [raw.targets]
    assert job.input is not None
    sources = read_input("input", job.input)
    names = as_list(job.reference)
    return sources, [read_aligned("reference", name, f"input={job.input}", sources) for name in names]


def _check_languages(data_dir: str, raw: RawSplit, text: TextPipeline) -> None:
    if (raw.src, raw.tgt) != (text.src, text.tgt):
        raise UserError(
            f"data_dir={data_dir}: holds {raw.src}-{raw.tgt}, and the model translates {text.src}-{text.tgt}; give "
            "input= and reference= instead"
        )


def _translate(
    translator: Translator,
    sources: Sequence[str],
    outputs: Sequence[tuple[GrowingFile, Callable[[Translation], str]]],
    is_kept: bool,
) -> list[str]:
    """Write translations as they come, in the form of each output; show a bar, and the rate. Return them if kept."""
    texts: list[str] = []
    num_pieces, started = 0, time.perf_counter()
    for translation in translator.stream(sources, progress=True):
        num_pieces += len(translation.pieces)
        if is_kept:
            texts.append(translation.text)
        for file, form in outputs:
            file.write(form(translation))
    seconds = time.perf_counter() - started
    with unless_closed():  # else what is translated would be lost
        print(
            f"{len(sources):,} sentences, {num_pieces:,} target pieces in {seconds:.1f} s: "
            f"{len(sources) / seconds:,.1f} sentences/s on {translator.compute}",
            file=sys.stderr,
            flush=True,
        )
    return texts


def _text(translation: Translation) -> str:
    return translation.text


def _details(translation: Translation) -> str:
    """All that is known of it, as JSON."""
    return json.dumps(asdict(translation), ensure_ascii=False)


def _scoring(evaluate: EvaluateConfig, text: TextPipeline) -> EvaluateConfig:
    """How to score: a model whose lines are tokens already is not tokenised once more."""
    check_scoring(text.tgt, evaluate)
    if text.config.tokenization is not Tokenization.none:
        return evaluate
    if unfit := [metric for metric in evaluate.metrics if metric in DETOKENIZED]:
        logger.warning(
            f"evaluate.metrics: {', '.join(unfit)} take detokenised text, and this model's lines are tokens; give "
            f"evaluate.metrics=[{ScoreKind.tokenized_bleu}]"
        )
    return replace(evaluate, tokenization=Tokenization.none)


def _score(
    job: GenerateJob, hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str, scoring: EvaluateConfig
) -> None:
    """Score; write the scores as JSON, and print them where they do not mix with translations."""
    scores = corpus_scores(hypotheses, references, lang, scoring)
    for score in scores:
        print(score, file=sys.stdout if job.output is not None else sys.stderr)
    if job.scores_json is not None:
        content: dict[str, Any] = {
            "scores": [score.to_dict() for score in scores],
            "model_dir": as_list(job.model_dir),
            "search": asdict(job.search),
        }
        write_file(Path(job.scores_json), json.dumps(content, indent=2) + "\n")
