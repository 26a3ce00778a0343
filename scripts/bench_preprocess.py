"""Compare preprocessing, from raw text to a data folder, with sacremoses and SentencePiece alone.

    python scripts/bench_preprocess.py PREFIX [--src en --tgt de --workers 2 --vocab 8000 --repeat 3]

"Alone" is the least that anyone would write: a process pool maps both sides of 1,000 pairs at a time through
MosesPunctNormalizer (with its removal of control characters), MosesTokenizer and a SentencePiece model that exists
already; the lines are in memory before the clock starts, and the ids are thrown away. Preprocessing is timed with
everything: reading, cleaning, learning BPE, encoding, writing, hashing. Rounds alternate; the best of each counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from dynconv_mt.data.preprocess import PreprocessConfig, preprocess
from dynconv_mt.text.config import BpeConfig
from dynconv_mt.text.corpus import read_pairs

_tools: dict[int, Any] = {}


def _start_alone(src: str, tgt: str, model: str) -> None:
    from sacremoses import MosesPunctNormalizer, MosesTokenizer
    from sentencepiece import SentencePieceProcessor

    for side, lang in enumerate((src, tgt)):
        normalizer = MosesPunctNormalizer(lang, post_remove_control_chars=True)
        _tools[side] = normalizer, MosesTokenizer(lang), SentencePieceProcessor(model_file=model)


def _alone(pairs: list[tuple[str, str]]) -> int:
    count = 0
    for pair in pairs:
        for side, line in enumerate(pair):
            normalizer, tokenizer, bpe = _tools[side]
            tokens = tokenizer.tokenize(normalizer.normalize(line), return_str=True, escape=False)
            count += len(bpe.encode(tokens))
    return count


def time_alone(pairs: list[tuple[str, str]], args: argparse.Namespace, model: Path) -> float:
    """Seconds that the two libraries alone need, the start of the pool included."""
    started = time.perf_counter()
    chunks = [pairs[start : start + 1000] for start in range(0, len(pairs), 1000)]
    with multiprocessing.Pool(args.workers, _start_alone, (args.src, args.tgt, str(model))) as pool:
        sum(pool.imap(_alone, chunks))
    return time.perf_counter() - started


def main() -> None:
    """Print pairs/s of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("prefix")
    for name, default in (("src", "en"), ("tgt", "de")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("workers", 2), ("vocab", 8000), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    pairs = list(read_pairs(args.prefix, args.src, args.tgt))
    folder = Path(tempfile.mkdtemp())
    config = PreprocessConfig(
        src=args.src,
        tgt=args.tgt,
        train=args.prefix,
        out_dir=str(folder / "data"),
        bpe=BpeConfig(vocab_size=args.vocab),
        workers=args.workers,
        overwrite=True,
    )
    whole, alone = [], []
    try:
        for _ in range(args.repeat):
            started = time.perf_counter()
            preprocess(config)
            whole.append(time.perf_counter() - started)
            alone.append(time_alone(pairs, args, folder / "data" / "text" / "joint.model"))
    finally:
        shutil.rmtree(folder)
    rates = [len(pairs) / min(seconds) for seconds in (whole, alone)]
    print(f"{args.prefix}: {len(pairs):,} pairs, {args.workers} processes, best of {args.repeat}")
    print(f"preprocess {rates[0]:,.0f} pairs/s; sacremoses + SentencePiece alone {rates[1]:,.0f} pairs/s")
    print(f"ratio {rates[0] / rates[1]:.0%}")


if __name__ == "__main__":
    main()
