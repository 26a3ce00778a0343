"""The mark-up that public corpora come in."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

_SEGMENT = re.compile(r'<seg id="?\d+"?>\s*(.*?)\s*</seg>', re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d+|#x[\da-f]+|amp|lt|gt|quot|apos);", re.IGNORECASE)  # those of XML; no other is one here
_METADATA = ("<url>", "<talkid>", "<keywords>")
_TITLES = re.compile(r"</?(?:title|description)>")


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of every `<seg>` of an .sgm or .xml file as it stands there, but for XML's entities."""
    for line in lines:
        for match in _SEGMENT.finditer(line):
            yield _ENTITY.sub(lambda entity: html.unescape(entity[0]), match[1])


def talk_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a `train.tags` file of IWSLT: no URL, talk number or key words; titles without their tags."""
    for line in lines:
        if not any(tag in line for tag in _METADATA):
            yield _TITLES.sub("", line).strip()
