"""From lines of text to their translations: the one path that generating, interactive use and validation share.

Shapes: B sentences, T positions, </s> included.
"""

from __future__ import annotations

import logging
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dynconv_mt.compute import Compute, resolve_compute
from dynconv_mt.data.config import BatchConfig, translation_batch
from dynconv_mt.errors import UserError
from dynconv_mt.models.io import load_model, read_config, resolve_model_dir
from dynconv_mt.models.layout import TEXT
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.ops import check_device
from dynconv_mt.plugins import import_plugins
from dynconv_mt.progress import Bar
from dynconv_mt.runtime import Precision, RuntimeConfig
from dynconv_mt.search.beam import beam_search
from dynconv_mt.search.config import SearchConfig
from dynconv_mt.search.ensemble import max_decoder_length
from dynconv_mt.search.score import forced_scores
from dynconv_mt.search.trellis import Hypothesis
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.text.vocab import EOS, PAD

logger = logging.getLogger(__name__)

FIRST_WINDOW, WINDOW = 4_000, 100_000  # lines that are sorted by length, and so held, together: at first, at most

_LINE_BREAKS = re.compile("[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")  # all that str.splitlines knows


@dataclass(frozen=True)
class Translation:
    """One line and what became of it. An empty line has an empty translation with score 0."""

    source: str  # the line as it was given
    text: str = ""  # detokenised; never holds a line break
    pieces: tuple[str, ...] = ()  # target subwords, without </s>
    score: float = 0.0  # what the search ranked by: Σ log p / length^length_penalty, in nats
    token_scores: tuple[float, ...] = ()  # log-probability of each piece and, last, of </s>, in nats
    truncated: bool = False  # the line was longer than the model reads, and only its beginning was translated
    alternatives: tuple[Translation, ...] = ()  # the others of the n best, best first


@dataclass(frozen=True)
class Scored:
    """One pair of lines, and how probable the model finds the second as a translation of the first."""

    source: str
    target: str
    pieces: tuple[str, ...]  # target subwords, without </s>
    token_scores: tuple[float, ...]  # log-probability of each piece and, last, of </s>, in nats

    @property
    def score(self) -> float:
        """Σ log p, in nats: what the search, with normalize=false and a temperature of 1, gives the same pieces."""
        return math.fsum(self.token_scores)


class Translator:
    """Models (several are an ensemble), their text pipeline, and how to search."""

    def __init__(
        self,
        models: Sequence[Seq2Seq],
        text: TextPipeline,
        *,
        search: SearchConfig | None = None,
        batch: BatchConfig | None = None,
        compute: Compute | None = None,
    ) -> None:
        """`batch` limits rows times the longest source of a batch; `compute` None: fp32 where the models are.

        Several threads may translate at once if the models are in evaluation mode, as `load_translator` returns them.
        """
        self.models = list(models)
        self.text = text
        self.search = search or SearchConfig()
        self.batch = batch or translation_batch()
        self.compute = compute or Compute(next(models[0].parameters()).device, Precision.fp32)
        self.max_pieces = min(model.config.stack("encoder").max_positions for model in models) - 1  # of a source

    def translate(self, lines: Sequence[str], progress: bool = False) -> list[Translation]:
        """Return a translation for every line, in the order of the lines.

        A blank line is not shown to the model; a line of more than `max_pieces` subwords is cut there, which is logged
        and marked. `progress` shows a bar on stderr, or writes lines where that is a file. Raises UserError where a
        line contains a line break.
        """
        return list(self.stream(lines, progress))

    def stream(self, lines: Sequence[str], progress: bool = False) -> Iterator[Translation]:
        """Yield what `translate` returns, so that memory holds no more than a window of them. Raises as that does."""
        if isinstance(lines, str):
            raise TypeError("translate takes a list of lines, not a string")
        with Bar(desc="translate", total=len(lines), unit=" lines", disable=not progress, smoothing=0.1) as bar:
            for window in _windows(len(lines)):
                yield from self._translate_window(lines[window], window.start, bar)

    def _translate_window(self, lines: Sequence[str], first: int, bar: Bar) -> list[Translation]:
        """Translate lines of which the first has the index `first`, by length."""
        sources = [self._encode(number, line) for number, line in enumerate(lines, start=first + 1)]
        self._warn_of_cuts([len(ids) for ids in sources], first)
        translations = [Translation(line) for line in lines]
        bar.update(sum(not ids for ids in sources))
        for rows in self._batches([min(len(ids), self.max_pieces) for ids in sources]):
            found = self._search([sources[row][: self.max_pieces] for row in rows])
            for row, hypotheses in zip(rows, found, strict=True):
                is_cut = len(sources[row]) > self.max_pieces
                translations[row] = self._translation(lines[row], hypotheses, is_cut)
            bar.update(len(rows))
        return translations

    def score(self, sources: Sequence[str], targets: Sequence[str], progress: bool = False) -> list[Scored]:
        """Return how probable each target is as a translation of its source, by forced decoding.

        An empty line is scored as well: as `</s>` alone. Raises UserError for a line longer than the models read, and
        where there are not as many targets as sources.
        """
        return list(self.stream_scores(sources, targets, progress))

    def stream_scores(self, sources: Sequence[str], targets: Sequence[str], progress: bool = False) -> Iterator[Scored]:
        """Yield what `score` returns, a window at a time; all lines are checked before the first is scored."""
        if isinstance(sources, str) or isinstance(targets, str):
            raise TypeError("score takes two lists of lines, not a string")
        if len(sources) != len(targets):
            raise UserError(f"targets: there are {len(targets)}, and {len(sources)} sources; one belongs to each")
        with Bar(desc="score", total=len(sources), unit=" lines", disable=not progress, smoothing=0.1) as bar:
            src = [array("i", self.text.encode_source(line)) for line in sources]  # a tenth of lists' memory
            tgt = [array("i", self.text.encode_target(line)) for line in targets]
            self._check_lengths("source", src, self.max_pieces)
            self._check_lengths("target", tgt, max_decoder_length(self.models))
            for window in _windows(len(src)):
                token_scores = self._score_window(src[window], tgt[window], bar)
                for source, target, ids, scores in zip(
                    sources[window], targets[window], tgt[window], token_scores, strict=True
                ):
                    yield Scored(source, target, tuple(self.text.target_pieces(ids)), scores)

    def _score_window(
        self, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], bar: Bar
    ) -> list[tuple[float, ...]]:
        """The log-probabilities of the targets' ids and `</s>`, computed by length."""
        found: list[tuple[float, ...]] = [()] * len(src)
        for rows in self._batches([max(len(source), len(target), 1) for source, target in zip(src, tgt, strict=True)]):
            scores = self._forced_scores([src[row] for row in rows], [tgt[row] for row in rows])
            for row, padded in zip(rows, scores, strict=True):
                found[row] = tuple(padded[: len(tgt[row]) + 1])
            bar.update(len(rows))
        return found

    def _forced_scores(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probabilities of the ids of one batch, padded."""
        (src, lengths), (tgt, _) = self._pad(sources), self._pad(targets)
        with self.compute.autocast():
            scores: list[list[float]] = forced_scores(self.models, src, lengths, tgt).tolist()
        return scores

    def _check_lengths(self, name: str, lines: Sequence[Sequence[int]], limit: int) -> None:
        for number, ids in enumerate(lines, start=1):
            if len(ids) > limit:
                raise UserError(f"{name} line {number}: has {len(ids)} pieces, and the model reads at most {limit}")

    def _encode(self, number: int, line: str) -> list[int]:
        """The ids of a line, without </s>; none for a blank one."""
        if "\n" in line:
            raise UserError(f"line {number}: contains a line break; give one sentence per line (str.splitlines helps)")
        return self.text.encode_source(line) if line.strip() else []

    def _warn_of_cuts(self, lengths: Sequence[int], first: int) -> None:
        cut = [(number, length) for number, length in enumerate(lengths, start=first + 1) if length > self.max_pieces]
        if cut:
            number, length = cut[0]
            line = f"line {number}" if first or len(lengths) > 1 else "the line"
            others = f" and {len(cut) - 1} more lines" if len(cut) > 1 else ""
            logger.warning(
                f"{line} ({length} pieces){others}: the model reads at most {self.max_pieces} pieces; only the "
                "beginning was translated. Split long lines into sentences."
            )

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows of similar length together, long ones first; a line too long for the budget stands alone."""
        rows = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
        batches, first = [], 0
        while first < len(rows):
            size = max(1, self.batch.max_tokens // (lengths[rows[first]] + 1))  # </s> counts
            size = min(size, self.batch.max_sentences or size)
            batches.append(rows[first : first + size])
            first += size
        return batches

    def _search(self, sources: Sequence[list[int]]) -> list[list[Hypothesis]]:
        """The n best hypotheses for the ids of one batch."""
        src, lengths = self._pad(sources)
        with self.compute.autocast():
            return beam_search(self.models, src, lengths, self.search)

    def _pad(self, lines: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The ids (B, T) of lines, each with its </s>, right-padded, and their lengths (B,)."""
        lengths = torch.tensor([len(ids) + 1 for ids in lines])
        padded = torch.full((len(lines), int(lengths.max())), PAD)
        for row, ids in zip(padded, lines, strict=True):
            row[: len(ids) + 1] = torch.tensor([*ids, EOS])
        return padded.to(self.compute.device), lengths.to(self.compute.device)

    def _translation(self, line: str, hypotheses: Sequence[Hypothesis], is_cut: bool) -> Translation:
        best, *others = (self._variant(line, hypothesis, is_cut) for hypothesis in hypotheses)
        return replace(best, alternatives=tuple(others))

    def _variant(self, line: str, hypothesis: Hypothesis, is_cut: bool) -> Translation:
        ids = hypothesis.tokens[:-1]
        return Translation(
            source=line,
            text=_LINE_BREAKS.sub(" ", self.text.decode_target(ids)),  # byte fallback can spell a line break
            pieces=tuple(self.text.target_pieces(ids)),
            score=hypothesis.score,
            token_scores=tuple(hypothesis.token_scores),
            truncated=is_cut,
        )


def _windows(num_lines: int) -> Iterator[slice]:
    """Yield the windows of so many lines, each twice as long as the one before: results come early, and sort well."""
    first, size = 0, FIRST_WINDOW
    while first < num_lines:
        yield slice(first, first + size)
        first, size = first + size, min(2 * size, WINDOW)


def load_translator(
    model_dir: str | Path | Sequence[str | Path],
    *,
    device: str | torch.device = "auto",
    precision: Precision | str = Precision.auto,
    threads: int = 0,
    search: SearchConfig | None = None,
    batch: BatchConfig | None = None,
) -> Translator:
    """Return the translator of a run folder, checkpoint or model directory; of several, their ensemble.

    device: auto, cpu, cuda, cuda:1, ...; precision: auto, fp32, bf16, fp16; threads: CPU threads, 0 for
    OMP_NUM_THREADS, else all cores. As torch has it, the number of threads is that of the whole process: the translator
    loaded last decides.
    Mixers from outside are imported first, as `plugins.import_plugins` does.
    Raises UserError for a folder without a whole model, models of different vocabularies, or a missing device.
    """
    import_plugins()
    runtime = RuntimeConfig(device=str(device), precision=precision, threads=threads)  # type: ignore[arg-type]
    paths = [model_dir] if isinstance(model_dir, str | Path) else list(model_dir)
    if not paths:
        raise UserError("model_dir=[]: give at least one model")
    folders = [resolve_model_dir(path) for path in paths]
    texts = [_load_text(folder) for folder in folders]
    for path, text in zip(paths, texts, strict=True):
        if text.fingerprint != texts[0].fingerprint:
            raise UserError(
                f"model_dir={path}: has another text pipeline than {paths[0]}; models of an ensemble must have been "
                "trained on data of one dc-preprocess run, or of runs with the same vocabulary"
            )
    models = [_load_model(folder) for folder in folders]
    compute = resolve_compute(runtime, width=max(model.config.dim for model in models))
    check_device(compute.device)
    for folder, model in zip(folders, models, strict=True):
        _check_vocabulary(folder, model, texts[0])
    models = [model.to(compute.device) for model in models]
    return Translator(models, texts[0], search=search, batch=batch, compute=compute)


def _load_text(folder: Path) -> TextPipeline:
    if read_config(folder).is_language_model:
        raise UserError(f"model_dir={folder}: is a language model, which cannot translate; give a translation model")
    if not (folder / TEXT).is_dir():
        raise UserError(
            f"model_dir={folder}: the model has no text pipeline, so it can read ids but no text; dc-convert adds one "
            "with dict=FOLDER (and bpe_codes=FILE)"
        )
    return TextPipeline.load(folder / TEXT)


def _load_model(folder: Path) -> Seq2Seq:
    model = load_model(folder, torch.device("cpu"))
    assert isinstance(model, Seq2Seq)  # _load_text has seen to it
    return model


def _check_vocabulary(folder: Path, model: Seq2Seq, text: TextPipeline) -> None:
    expected = (model.config.src_vocab_size, model.config.tgt_vocab_size)
    found = (text.src_vocab_size, text.tgt_vocab_size)
    if found != expected:
        raise UserError(
            f"{folder}: the model has (source, target) vocabularies of {expected} types, its text pipeline of {found}; "
            "the folder was put together from different models"
        )
