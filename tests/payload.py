"""A pickle that does something when it is unpickled: proof that nothing is."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def pickled(marker: Path) -> bytes:
    """Return a pickle that would make the folder `marker`."""
    content = pickle.dumps(Payload(marker))
    pickle.loads(content)  # else the tests below would prove nothing
    marker.rmdir()
    return content
