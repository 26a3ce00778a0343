"""What preprocessing counts, as `stats.json` and as a table to read."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynconv_mt.tables import aligned
from dynconv_mt.text.clean import Drop

_BIN_ENDS = [0, *range(10, 101, 10), 150, 200, 500]  # pieces; the last bin is open
_BAR = 40  # columns of the longest bar of the histogram


@dataclass
class SideStats:
    """Counts of one language of one split, of the pairs that were kept."""

    sentences: int = 0
    tokens: int = 0  # before BPE
    pieces: int = 0  # after BPE, `</s>` not counted
    unknown: int = 0  # pieces that are `<unk>`
    byte_pieces: int = 0  # pieces that spell a byte of a character without a piece
    lengths: Counter[int] = field(default_factory=Counter)  # pieces of a sentence -> sentences

    def add(self, other: SideStats) -> None:
        """Add the counts of other sentences."""
        self.sentences += other.sentences
        self.tokens += other.tokens
        self.pieces += other.pieces
        self.unknown += other.unknown
        self.byte_pieces += other.byte_pieces
        self.lengths.update(other.lengths)

    @property
    def longest(self) -> int:
        """Pieces of the longest sentence."""
        return max(self.lengths, default=0)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the rates derived from them."""
        return {
            "sentences": self.sentences,
            "tokens": self.tokens,
            "pieces": self.pieces,
            "pieces_per_token": _rate(self.pieces, self.tokens),
            "unknown": self.unknown,
            "unknown_rate": _rate(self.unknown, self.pieces),
            "byte_pieces": self.byte_pieces,
            "byte_piece_rate": _rate(self.byte_pieces, self.pieces),
            "mean_length": _rate(self.pieces, self.sentences),
            "longest": self.longest,
            "length_histogram": histogram(self.lengths),
        }


@dataclass
class SplitStats:
    """Counts of one split."""

    read: int = 0  # pairs
    drops: Counter[Drop] = field(default_factory=Counter)  # pairs, by reason
    src: SideStats = field(default_factory=SideStats)
    tgt: SideStats = field(default_factory=SideStats)

    def to_json(self, src: str, tgt: str) -> dict[str, Any]:
        """Return the counts, every reason for dropping included."""
        return {
            "pairs_read": self.read,
            "pairs": self.src.sentences,
            "dropped": {reason.value: self.drops[reason] for reason in Drop},
            "sides": {src: self.src.to_json(), tgt: self.tgt.to_json()},
        }

    def describe_drops(self) -> str:
        """Return, for example, `too_long 3, ratio 12`; empty where nothing was dropped."""
        return ", ".join(f"{reason} {self.drops[reason]:,}" for reason in Drop if self.drops[reason])


def histogram(lengths: Mapping[int, int]) -> dict[str, int]:
    """Return the number of sentences by length in pieces: `{"0": 1, "1-10": 20, ..., "501+": 0}`."""
    starts = [0, *(end + 1 for end in _BIN_ENDS)]
    names = ["0", *(f"{start}-{end}" for start, end in zip(starts[1:], _BIN_ENDS[1:], strict=False)), f"{starts[-1]}+"]
    counts = [0] * len(names)
    for length, number in lengths.items():
        counts[bisect_left(_BIN_ENDS, length)] += number
    return dict(zip(names, counts, strict=True))


def summarize(title: str, splits: Mapping[str, SplitStats], src: str, tgt: str) -> str:
    """Return a summary for the terminal: a table of the splits, what was dropped, and training lengths as bars."""
    header = ["split", "side", "sentences", "tokens", "pieces", "per token", "longest", "unknown", "bytes"]
    rows = [
        [name, lang, *_cells(side)]
        for name, split in splits.items()
        for lang, side in ((src, split.src), (tgt, split.tgt))
    ]
    lines = [title, "", *aligned([header, *rows], left=2), ""]
    train = splits["train"]
    drops = train.describe_drops()
    lines.append(f"train: {train.drops.total():,} of {train.read:,} pairs dropped{f' ({drops})' if drops else ''}")
    lines += ["", f"pieces in a training sentence ({src} | {tgt}):"]
    lines += _bars(histogram(train.src.lengths), histogram(train.tgt.lengths))
    return "\n".join(lines) + "\n"


def _cells(side: SideStats) -> list[str]:
    """The columns of a side that follow its name."""
    rates = [_rate(side.unknown, side.pieces), _rate(side.byte_pieces, side.pieces)]
    counts = [f"{count:,}" for count in (side.sentences, side.tokens, side.pieces)]
    return [*counts, f"{_rate(side.pieces, side.tokens):.2f}", str(side.longest), *(f"{rate:.3%}" for rate in rates)]


def _bars(src: Mapping[str, int], tgt: Mapping[str, int]) -> list[str]:
    highest = max(*src.values(), *tgt.values(), 1)
    rows = [
        [name, f"{src[name]:,}", f"{tgt[name]:,}", "#" * round(_BAR * src[name] / highest)]
        for name in src
        if src[name] or tgt[name]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  " + "  ".join([*(c.rjust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    ]


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
