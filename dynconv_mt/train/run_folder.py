"""The run folder: whose it is, who works in it, and whether its run has ended.

    RUN/config.json     the resolved job that the run was started with
    RUN/checkpoints/    see checkpoint.py
    RUN/metrics.jsonl   see report.py; also RUN/tensorboard/ and, at the end, RUN/curves.png
    RUN/model/          the final model directory
    RUN/finished.json   why and where training ended; written last

One process at a time trains in it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynconv_mt.data.output import check_folder
from dynconv_mt.errors import UserError
from dynconv_mt.files import broken_link
from dynconv_mt.models.config import ModelConfig, config_to_dict
from dynconv_mt.models.io import resolve_model_dir
from dynconv_mt.models.layout import CONFIG, WEIGHTS
from dynconv_mt.train.checkpoint import list_checkpoints, write_json
from dynconv_mt.train.config import Final, FitConfig
from dynconv_mt.train.state import TrainerState, stop_reason

FOREIGN = ("checkpoints", "model", WEIGHTS, CONFIG, "data.json", "metrics.jsonl")
JOB, FINISHED, LOCK = "config.json", "finished.json", ".lock"
KIND = "dynconv_mt training run"
FORMAT = 1

# Options that may differ when a run continues: they decide where, how long and how visibly it computes, not what.
# The data folder may move: its content is compared by hash, which decides on vocabularies too.
OWN = ("out_dir", "data_dir", "device", "precision", "threads")  # may also be each rank's own, as typed
FREE = (*OWN, "checkpoint", "validate", "search")
FREE_TRAIN = ("max_updates", "max_epochs", "max_minutes", "max_skipped", "log_every", "tensorboard", "parallel")

ADDED = {"train.r_drop": 0.0}  # options that runs of older versions do not note, and what they were


def check_run_folder(config: FitConfig, model: ModelConfig) -> None:
    """Raise UserError when `out_dir` holds something else, a run of other options, or one that cannot go on."""
    run = Path(config.out_dir)
    check_folder("out_dir", config.out_dir)
    if not run.exists():
        return
    job = read_job(run)
    if job is None:
        if foreign := [name for name in FOREIGN if (run / name).exists()]:
            raise UserError(f"out_dir={config.out_dir}: holds something else ({foreign[0]}); choose another folder")
        return
    has_checkpoints, has_model = bool(list_checkpoints(run)), has_final(run)
    if (has_checkpoints or has_model) and (changes := changed_options(job, job_to_json(config, model))):
        raise UserError(
            f"out_dir={config.out_dir}: holds another run, which differs in {'; '.join(changes)}. "
            "Give the options of that run to continue it, or choose another out_dir"
        )
    if has_model and not has_checkpoints and read_finished(config) is None:
        raise UserError(
            f"out_dir={config.out_dir}: this run has a final model but no checkpoint to continue from; choose another "
            "out_dir"
        )


def has_final(run: Path) -> bool:
    """Whether RUN/model is there. Raises UserError for a link that leads nowhere, as to a disk that is not mounted."""
    model = run / "model"
    if fault := broken_link(model):
        raise UserError(f"{model}: {fault}")
    return model.is_dir()


def write_job(config: FitConfig, model: ModelConfig) -> None:
    """Write the resolved job into the run folder, which is made if need be."""
    write_json(Path(config.out_dir) / JOB, {"format": FORMAT, "kind": KIND, "job": job_to_json(config, model)})


def job_to_json(config: FitConfig, model: ModelConfig) -> dict[str, Any]:
    """Return the job, the architecture with it, as it comes back from its JSON file."""
    content = {**config_to_dict(config), "model": config_to_dict(model)}
    data: dict[str, Any] = json.loads(json.dumps(content, default=str))  # out_dir may be a Path
    return data


def changed_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the options that may not differ and do, as `name=now (was then)`."""
    if "model" not in old:  # a run that was begun from Python, by an older version
        new = {name: section for name, section in new.items() if name != "model"}
    if _is_same_model(old.get("init_from"), new.get("init_from")):
        old = {**old, "init_from": new["init_from"]}
    return differences(ADDED | flatten(old), flatten(new), _is_free)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], is_free: Callable[[str], bool]) -> list[str]:
    """Return the options, by their dotted names, that differ and are not free to, as `name=now (was then)`."""
    names = sorted(name for name in old.keys() | new.keys() if not is_free(name))
    return [  # what only one of the two versions knows is null in the other
        f"{name}={new.get(name)} (was {old.get(name)})" for name in names if old.get(name) != new.get(name)
    ]


def _is_same_model(one: str | None, other: str | None) -> bool:
    """Whether both name the same model directory, spelt this way or that."""
    if one is None or other is None:
        return False
    try:
        return resolve_model_dir(one).samefile(resolve_model_dir(other))
    except (UserError, OSError):
        return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder; UserError when another process trains in it. The lock ends with the process."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"out_dir={run}: another process trains in it; wait, or choose another one") from None
        except OSError as error:
            raise UserError(f"out_dir={run}: files cannot be locked there ({error.strerror}); choose another") from None
        yield


def write_finished(config: FitConfig, state: TrainerState, reason: str) -> None:
    """Note that the run has ended, and what its model is; written after everything else."""
    data = {"format": FORMAT, "reason": reason, "final": _final_rule(config), "state": asdict(state)}
    write_json(Path(config.out_dir) / FINISHED, data)


def is_final_current(config: FitConfig) -> bool:
    """Whether RUN/model of a finished run is what `config` asks for."""
    noted = json.loads((Path(config.out_dir) / FINISHED).read_text(encoding="utf-8")).get("final")
    return noted in (None, _final_rule(config))  # None: an older version did not note it


def _final_rule(config: FitConfig) -> dict[str, Any]:
    """Return the options that decide what RUN/model is made of, JSON."""
    rule = config.checkpoint
    needs: dict[Final, dict[str, Any]] = {
        Final.average: {"average": rule.average},
        Final.best: {"metric": str(config.validate.metric)},
    }
    return {"final": str(rule.final), **needs.get(rule.final, {})}


def read_finished(config: FitConfig) -> tuple[TrainerState, str] | None:
    """Return where and why the run in `out_dir` ended; None if it has not, or its limits now allow more."""
    run = Path(config.out_dir)
    try:
        state = TrainerState(**json.loads((run / FINISHED).read_text(encoding="utf-8"))["state"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    reason = stop_reason(state, config)
    return (state, reason) if reason and has_final(run) else None


def read_job(run: Path) -> dict[str, Any] | None:
    """Return the job that a run folder was begun with; None where there is none. UserError where it is damaged."""
    try:
        data = json.loads((run / JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{run / JOB}: cannot be read ({error}); choose another out_dir") from None
    if not isinstance(data, dict) or data.get("kind") != KIND or not isinstance(data.get("job"), dict):
        return None
    job: dict[str, Any] = data["job"]
    return job


def read_job_going_on(run: Path) -> dict[str, Any] | None:
    """Return the job of a run that has saved something to go on from; None where there is none."""
    job = read_job(run)
    return job if job is not None and (list_checkpoints(run) or has_final(run)) else None


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return options in groups by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _is_free(name: str) -> bool:
    section, _, option = name.partition(".")
    return section in FREE or (section == "train" and option in FREE_TRAIN) or option.endswith("_vocab_size")
