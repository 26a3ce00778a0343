"""Kill training again and again, restart it with the same command, and compare every bit with a run left in peace.

    python scripts/chaos_train.py [--kills 50] [--ranks 1|2] [--seed 1] [--updates N] [--folder DIR] [--out FILE.md]

A small DynamicConv (chaos_train.yaml) learns the embedded corpus with dropout, gradient accumulation, a moving average
of the weights, validations, checkpoints in the middle of epochs and early stopping: once in peace, then under fire.
Every session is a real `dc-train` process (two ranks: torchrun with its workers). The script sees only what the run
folder shows; it waits for a phase (start-up, training, validation, save, finish), then for a random part of the time
that the phase takes, and sends SIGKILL. With two ranks it kills one worker, which torchrun replaces, or torchrun and
all workers, after which the same command is given again. Which phase a kill hit is read from what it left behind.

Exit code 0: every run ended, and scripts/compare_runs.py finds no difference to the run in peace. 1: something differs,
a run was lost, or fewer kills landed than asked for. Linux only: it finds torchrun's workers in /proc.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynconv_mt.data.preprocess import PreprocessConfig, preprocess
from dynconv_mt.data.toy import Sizes, write_corpus
from dynconv_mt.text.config import BpeConfig
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.report import read_metrics

HERE = Path(__file__).resolve()
RECIPE, COMPARE = HERE.with_suffix(".yaml"), HERE.with_name("compare_runs.py")
POLL_SECONDS, HANG_SECONDS = 0.001, 300.0


class Phase(StrEnum):
    """What a run is doing, as far as its folder shows."""

    start = "start-up"
    training = "training"
    validation = "validation"
    save = "save"  # a half-written checkpoint is there
    removal = "removal of an old checkpoint"  # a half-removed one is
    finish = "finish"  # final model, picture, last notes


# how kills are shared among the phases; which removal is hit is left to chance, after a save
SHARES = {Phase.start: 2, Phase.training: 4, Phase.validation: 3, Phase.save: 8, Phase.finish: 3}


@dataclass
class Kill:
    """One SIGKILL."""

    run: int
    aimed_at: Phase
    hit: Phase  # what the folder showed once the processes were dead
    update: int  # of the last line of metrics.jsonl
    victim: str  # the process, "rank 0", "rank 1" or "all"
    left: list[str]  # temporary names left behind


@dataclass
class Outcome:
    """What the script found."""

    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)  # bytes by kind of file
    reference: dict[str, Any] = field(default_factory=dict)  # finished.json of the run in peace

    def compare(self, peace: Path, fire: Path) -> None:
        """Add what differs between two run folders."""
        command = [sys.executable, str(COMPARE), "--json", str(peace), str(fire)]
        result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
        self.differences += result["differences"]
        self.compared.update(result["compared"])


class Watch:
    """Tells from its folder where a run is."""

    def __init__(self, run: Path, validations: set[int], last: int) -> None:
        """`validations`: updates after which one is due; `last`: the update at which the run ends."""
        self.run, self.validations, self.last = run, validations, last
        self._metrics = run / "metrics.jsonl"
        self._seen, self._position = (-1, -1), (0, "")
        self.begin_session()

    def begin_session(self) -> None:
        """Count as start-up until metrics.jsonl is replaced, the first thing that a session does."""
        self._old_inode = self._stat()[0]

    def phase(self) -> Phase:
        """Return what the run is doing."""
        if self._stat()[0] == self._old_inode:
            return Phase.start
        left = self.temporary()
        if any(name.startswith(".tmp_step_") for name in left):
            return Phase.save
        if any(name.startswith(".tmp_removed_step_") for name in left):
            return Phase.removal
        update, kind = self.position()
        if kind == "train" and update in self.validations:
            return Phase.validation
        return Phase.finish if update >= self.last else Phase.training

    def position(self) -> tuple[int, str]:
        """Return update and kind of the last whole line of metrics.jsonl."""
        stat = self._stat()
        if stat != self._seen:
            lines = self._metrics.read_text(encoding="utf-8").split("\n") if stat[0] >= 0 else []
            record: dict[str, Any] = json.loads(lines[-2]) if len(lines) > 1 else {"update": 0, "kind": ""}
            self._seen, self._position = stat, (record["update"], record["kind"])
        return self._position

    def temporary(self) -> list[str]:
        """Return the temporary names in the run folder and among its checkpoints."""
        folders = [path for path in (self.run, self.run / "checkpoints") if path.is_dir()]
        return sorted(name for folder in folders for name in os.listdir(folder) if name.startswith(".tmp_"))

    def _stat(self) -> tuple[int, int]:
        try:
            status = self._metrics.stat()
        except FileNotFoundError:
            return -1, -1
        return status.st_ino, status.st_size


class Session:
    """One start of the command, until it ends or is shot."""

    def __init__(self, folder: Path, ranks: int, updates: int) -> None:
        # nicer than this script, which must be quick to fire also where all share one core
        command = ["nice", "-n", "5", *train_command(ranks, updates)]
        with (folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        atexit.register(self.kill, "all")  # should this script be interrupted

    def code(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def kill(self, victim: str) -> bool:
        """Send SIGKILL to one rank (the launcher lives on) or to all; False where the victim has ended already."""
        if self.code() is not None:
            return False
        workers = dict(_workers(self._process.pid))
        if victim.startswith("rank"):
            return victim in workers and _send_kill(workers[victim])
        is_hit = _send_kill(self._process.pid)
        for pid in workers.values():
            _send_kill(pid)
        self._process.wait()
        return is_hit


def train_command(ranks: int, updates: int) -> list[str]:
    """Return the command that begins the run and goes on with it."""
    modules = ["dynconv_mt.cli", "train"]
    if ranks > 1:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--max-restarts=1000"]
        modules = [*torchrun, "-m", *modules]
    folders = ["data_dir=../data", "out_dir=run"]  # the same for all runs, so that the provenance is the same text
    per_update = f"train.batches_per_update={2 * ranks}"  # so every rank accumulates two micro-batches
    options = [f"recipe={RECIPE}", *folders, per_update, f"train.max_updates={updates}"]
    return [sys.executable, "-m", *modules, *options]


def _workers(launcher: int) -> Iterator[tuple[str, int]]:
    """Yield "rank N" and process id of the launcher's workers."""
    try:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        for pid in children:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks = [entry for entry in environment if entry.startswith(b"RANK=")]
            if ranks:
                yield f"rank {ranks[0][5:].decode()}", int(pid)
    except (FileNotFoundError, ProcessLookupError):
        return


def _send_kill(pid: int) -> bool:
    """Kill a process and wait until it is no more than a name; False where it was dead already."""
    if not _is_alive(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    while _is_alive(pid):
        time.sleep(POLL_SECONDS)
    return True


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def prepare(folder: Path) -> None:
    """Make the data folder."""
    write_corpus(folder / "corpus", Sizes(train=120, valid=40, test=4), seed=1)
    train, valid = (str(folder / "corpus" / split) for split in ("train", "valid"))
    data, bpe = str(folder / "data"), BpeConfig(vocab_size=400)
    preprocess(PreprocessConfig(src="en", tgt="de", train=train, valid=valid, out_dir=data, bpe=bpe, workers=1))


def run_in_peace(folder: Path, ranks: int, updates: int) -> tuple[Watch, dict[Phase, float]]:
    """Make the reference; return a watch that knows its validations and end, and the seconds that a phase lasts."""
    folder.mkdir()
    watch = Watch(folder / "run", set(), sys.maxsize)
    session = Session(folder, ranks, updates)
    seconds, visits = defaultdict[Phase, float](float), Counter[Phase]()
    before, then = None, time.monotonic()
    while session.code() is None:
        phase, now = watch.phase(), time.monotonic()
        visits[phase] += phase is not before
        seconds[phase] += now - then
        before, then = phase, now
        time.sleep(POLL_SECONDS)
    if session.code():
        raise SystemExit(f"the run in peace failed; see {folder / 'log.txt'}")
    records = read_metrics(folder / "run" / "metrics.jsonl")
    watch.validations = {record["update"] for record in records if record["kind"] == "valid"}
    watch.last = records[-1]["update"]
    lasts = {phase: seconds[phase] / visits[phase] for phase in visits}
    ending = time.time() - list_checkpoints(folder / "run")[-1].stat().st_mtime  # where it ends is known only now
    # a shot that comes too late finds the run finished, and there is no second chance: only the first half is aimed at
    return watch, {**lasts, Phase.validation: lasts[Phase.training], Phase.finish: 0.5 * ending}


class Gunner:
    """Trains a run under fire."""

    def __init__(self, args: argparse.Namespace, peace: Watch, lasts: dict[Phase, float], outcome: Outcome) -> None:
        self.args, self.peace, self.lasts, self.outcome = args, peace, lasts, outcome
        self.random = random.Random(args.seed)

    def shoot(self, folder: Path, kills: int, on_kill: Callable[[Kill], None]) -> None:
        """Begin a run in `folder`, kill it up to `kills` times, and let it end."""
        folder.mkdir()
        self.outcome.runs += 1
        watch = Watch(folder / "run", self.peace.validations, self.peace.last)
        shots, session = self._shots(kills), None
        while True:
            if session is None:
                watch.begin_session()
                session = Session(folder, self.args.ranks, self.args.updates)
            if not self._await(watch, session, shots[0] if shots else None):
                break
            kill = self._fire(watch, session, shots.pop(0)[1])
            if kill is not None:
                on_kill(kill)
            if session.code() is not None or kill is None or kill.victim == "all":
                session = None  # the same command again
            else:
                watch.begin_session()  # torchrun starts the workers anew
        if session.code() != 0:
            self.outcome.lost.append(f"{folder}: ended with code {session.code()} or hung; see log.txt in it")

    def _shots(self, count: int) -> list[tuple[int, Phase]]:
        """Return at which update, and in which phase, to kill: spread evenly over the run, in random order."""
        deck = [phase for phase, share in SHARES.items() for _ in range(share)]
        phases = [deck[i % len(deck)] for i in range(count)]
        self.random.shuffle(phases)
        is_end = Counter(phases)[Phase.finish]
        early = [phase for phase in phases if phase is not Phase.finish]
        shots = [(i * self.peace.last // max(1, len(early)), phase) for i, phase in enumerate(early)]
        return shots + [(self.peace.last, Phase.finish)] * is_end

    def _await(self, watch: Watch, session: Session, shot: tuple[int, Phase] | None) -> bool:
        """Wait for the moment to fire; False where the session ends first, or hangs."""
        before, since = watch.position(), time.monotonic()
        while session.code() is None:
            if shot and (shot[1] is Phase.start or (watch.phase() is shot[1] and watch.position()[0] >= shot[0])):
                return True
            if watch.position() != before:
                before, since = watch.position(), time.monotonic()
            if time.monotonic() - since > HANG_SECONDS:
                session.kill("all")
            time.sleep(POLL_SECONDS)
        return False

    def _fire(self, watch: Watch, session: Session, aimed_at: Phase) -> Kill | None:
        """Wait for a random part of the phase, kill, and note what was hit; None where the session was over."""
        time.sleep(self.random.uniform(0.0, 1.1) * self.lasts.get(aimed_at, 0.01))
        victim = self.random.choice(["all", *(f"rank {rank}" for rank in range(self.args.ranks))])
        is_one_hit = self.args.ranks > 1 and session.kill(victim)
        if not is_one_hit and not session.kill(victim := "all"):
            return None
        return Kill(self.outcome.runs, aimed_at, watch.phase(), watch.position()[0], victim, watch.temporary())


def report(args: argparse.Namespace, outcome: Outcome, minutes: float) -> str:
    """Return the outcome as Markdown."""
    ended, kills = outcome.reference, outcome.kills
    hits = Counter(kill.hit for kill in kills)
    complaints = [*outcome.lost, *outcome.differences]
    lines = [
        f"`{shlex.join([Path(sys.executable).name, *sys.argv])}`",
        "",
        f"torch {torch.__version__}, Python {platform.python_version()}, {minutes:.1f} minutes. The run in peace ended "
        f"after {ended['state']['update']} updates and {ended['state']['epoch']} whole epochs by `{ended['reason']}`.",
        "",
        f"**{len(kills)} kills in {outcome.runs} run(s) of {args.ranks} rank(s); {len(outcome.lost)} runs lost; "
        f"{len(outcome.differences)} differences.** {sum(bool(k.left) for k in kills)} kills left temporary files.",
        *_table("phase", "kills", [(phase, hits[phase]) for phase in Phase]),
        *_table("victim", "kills", sorted(Counter(kill.victim for kill in kills).items())),
        *_table("compared", "bytes", sorted(outcome.compared.items())),
        *([""] if complaints else []),
        *(f"- {line}" for line in complaints),
    ]
    return "\n".join(lines) + "\n"


def _table(name: str, unit: str, rows: Iterable[tuple[str, int]]) -> list[str]:
    return ["", f"| {name} | {unit} |", "|---|---|", *(f"| {key} | {number:,} |" for key, number in rows)]


def save_report(out: Path, args: argparse.Namespace, outcome: Outcome, minutes: float) -> None:
    """Write the report as Markdown, and with every single kill as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report(args, outcome, minutes), encoding="utf-8")
    data = {"arguments": {k: str(v) for k, v in vars(args).items()}, "minutes": minutes, **vars(outcome)}
    data["kills"] = [asdict(kill) for kill in outcome.kills]
    out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often to kill (50)")
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2), help="2: through torchrun (1)")
    parser.add_argument("--seed", type=int, default=1, help="of where and when to kill (1)")
    parser.add_argument("--updates", type=int, default=400, help="at most; early stopping may end a run before (400)")
    parser.add_argument("--folder", type=Path, help="a new folder for the runs (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="write the report here, and as .json beside it")
    return parser.parse_args()


def chaos(args: argparse.Namespace, folder: Path) -> Outcome:
    """Train in peace and under fire, and compare."""
    outcome = Outcome()
    prepare(folder)
    peace, lasts = run_in_peace(folder / "peace", args.ranks, args.updates)
    outcome.reference = json.loads((folder / "peace" / "run" / "finished.json").read_text(encoding="utf-8"))
    gunner = Gunner(args, peace, lasts, outcome)
    with tqdm(total=args.kills, unit=" kills") as bar:

        def on_kill(kill: Kill) -> None:
            outcome.kills.append(kill)
            bar.update()
            bar.set_postfix_str(", ".join(f"{n} {phase}" for phase, n in Counter(k.hit for k in outcome.kills).items()))

        while not outcome.lost and len(outcome.kills) < args.kills and outcome.runs < 2 + args.kills:
            under_fire = folder / f"fire_{outcome.runs + 1}"
            gunner.shoot(under_fire, args.kills - len(outcome.kills), on_kill)
            if not outcome.lost:
                outcome.compare(folder / "peace" / "run", under_fire / "run")
    return outcome


def main() -> int:
    """Run the script; return its exit code."""
    args, started = parse_arguments(), time.monotonic()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chaos_"))
    folder.mkdir(parents=True, exist_ok=args.folder is None)
    outcome = chaos(args, folder.resolve())
    minutes = (time.monotonic() - started) / 60.0
    print(report(args, outcome, minutes))
    if args.out:
        save_report(args.out, args, outcome, minutes)
    is_good = not outcome.lost and not outcome.differences and len(outcome.kills) >= args.kills
    if is_good and args.folder is None:
        shutil.rmtree(folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
