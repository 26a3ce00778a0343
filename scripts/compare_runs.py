"""Compare two run folders bit for bit; exit code 1 and a list where they differ.

    python scripts/compare_runs.py RUN OTHER [--json]

Every file of checkpoints, final model, metrics and notes is compared. JSON files are compared without the fields that
hold wall-clock time, `seconds` and `tokens_per_second`, since no two runs share them; of the event files of TensorBoard
the scalars are compared. Checkpoints must be as their manifests say, and no temporary name may be left.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynconv_mt.train.checkpoint import find_damage, list_checkpoints

WALL_CLOCK = ("seconds", "tokens_per_second")
TENSORBOARD, LOCK = "tensorboard", ".lock"
KINDS = {
    "state/model.safetensors": "weights",
    "state/optimizer.safetensors": "optimizer state",
    "state/trainer.json": "trainer state (position, histories)",
    "metrics.jsonl": "metrics.jsonl",
}


def compare(run: Path, other: Path) -> tuple[list[str], Counter[str]]:
    """Return what differs, a line each, and the bytes compared by kind of file."""
    found = [
        f"{folder}: {damage}" for r in (run, other) for folder in list_checkpoints(r) if (damage := find_damage(folder))
    ]
    compared: Counter[str] = Counter()
    first, second = ({path.relative_to(r).as_posix(): path for path in _files(r)} for r in (run, other))
    found += [f"{name}: in one of the runs only" for name in sorted(first.keys() ^ second.keys())]
    for name in sorted(first.keys() & second.keys()):
        contents = _content(first[name]), _content(second[name])
        compared[_kind(name)] += len(contents[0])
        if contents[0] != contents[1]:
            bits = (int.from_bytes(contents[0], "big") ^ int.from_bytes(contents[1], "big")).bit_count()
            found.append(f"{name}: {bits} bits differ")
    scalars = _scalars(run), _scalars(other)
    compared["TensorBoard"] = sum(8 * len(points) for points in scalars[0].values())  # a step and a float each
    tags = sorted(scalars[0].keys() | scalars[1].keys())
    found += [f"TensorBoard's {tag}: differs" for tag in tags if scalars[0].get(tag) != scalars[1].get(tag)]
    return found, compared


def _files(run: Path) -> Iterator[Path]:
    for path in run.rglob("*"):
        if path.is_file() and path.name != LOCK and path.parent.name != TENSORBOARD:
            yield path


def _kind(name: str) -> str:
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            return kind
    if name.startswith("model/"):
        return "final model"
    return "model directories of the checkpoints" if name.endswith("model.safetensors") else "other files"


def _content(path: Path) -> bytes:
    """The bytes of a file; of a JSON file, its data without wall-clock fields and without a hash of them."""
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        return json.dumps([_timeless(json.loads(line)) for line in lines]).encode()
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "manifest.json":
            del data["files"]["state/trainer.json"]  # find_damage has held the file against this entry
        return json.dumps(_timeless(data)).encode()
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(entry) for name, entry in value.items() if name not in WALL_CLOCK}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    if not (run / TENSORBOARD).is_dir():
        return {}
    events = EventAccumulator(str(run / TENSORBOARD), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.rpartition("/")[2] not in WALL_CLOCK]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def main() -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found, compared = compare(args.run, args.other)
    if args.json:
        print(json.dumps({"differences": found, "compared": compared}))
    else:
        print("\n".join(found) or f"no bit differs: {', '.join(f'{kind} {n:,} B' for kind, n in compared.items())}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
