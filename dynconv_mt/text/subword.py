"""What a subword model must offer to stand in a text pipeline, and the register of those there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Protocol, Self, TypeVar


class Subword(Protocol):
    """Tokens (one string, separated by single blanks) to ids and back. Ids 0 to 3 are those of `vocab.py`."""

    kind: ClassVar[str]  # how pipeline.json calls the type; set by `register_subword`

    @property
    def vocab_size(self) -> int:
        """Number of pieces; ids lie below it."""

    def encode(self, tokens: str) -> list[int]:
        """Return the ids of a line, without `</s>`."""

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the name of each id, the special ones included."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens that the ids spell; `<s>`, `<pad>` and `</s>` are skipped."""

    def is_byte(self, piece: int) -> bool:
        """Whether the id stands for one byte of a character that has no piece."""

    def files(self) -> Mapping[str, bytes]:
        """Return the files that hold the model: name within the pipeline's folder, content."""

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model that `files()` describes; ValueError where the content is no such model."""


S = TypeVar("S", bound=type[Subword])
SUBWORDS: dict[str, type[Subword]] = {}


def register_subword(kind: str) -> Callable[[S], S]:
    """Class decorator: enter a Subword type under the tag that pipeline.json uses for it."""

    def enter(subword_type: S) -> S:
        subword_type.kind = kind
        SUBWORDS[kind] = subword_type
        return subword_type

    return enter
