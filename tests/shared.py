"""Where fixtures and corpora lie that are no part of the project: beside it, or nowhere."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
