"""The mark-up that public corpora come in."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

_SEGMENT = re.compile(r'<seg id="?\d+"?>\s*(.*?)\s*</seg>', re.IGNORECASE)
_METADATA = ("<url>", "<talkid>", "<keywords>")
_TITLES = re.compile(r"</?(?:title|description)>")


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of every `<seg>` of an .sgm or .xml file, entities resolved and typographic apostrophes plain."""
    for line in lines:
        for match in _SEGMENT.finditer(line):
            yield html.unescape(match[1]).replace("’", "'")


def talk_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a `train.tags` file of IWSLT: no URL, talk number or key words; titles without their tags."""
    for line in lines:
        if not any(tag in line for tag in _METADATA):
            yield _TITLES.sub("", line).strip()
