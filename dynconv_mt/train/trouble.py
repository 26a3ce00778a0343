"""When gradients stay non-finite: the last update is computed again under watch, and what is found is written down.

The weights have not moved since that update began, and its random numbers depend on its place only, so it goes wrong
again in the same spot (on a GPU as far as its kernels repeat themselves).

    RUN/trouble.json    the update, the first module or gradient to go wrong, and the sentence pairs
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from dynconv_mt.errors import UserError
from dynconv_mt.models.io import SavesItself
from dynconv_mt.runtime import Precision
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.text.vocab import PAD
from dynconv_mt.train.checkpoint import write_json
from dynconv_mt.train.memory import Part
from dynconv_mt.train.step import UpdateStep

TROUBLE = "trouble.json"


def give_up(step: UpdateStep, run: Path, text: SavesItself | None) -> NoReturn:
    """Write RUN/trouble.json and raise UserError, where train.max_skipped updates in a row were skipped.

    The newest of them has been just now. All ranks call it.
    """
    report = _investigate(step, text)
    if step.ranks.is_main:
        write_json(run / TROUBLE, report)
    config, precision = step.config, step.compute.precision
    remedy = "" if precision is Precision.fp32 else f", give precision=fp32 (now {precision})"
    raise UserError(
        f"train.max_skipped={config.train.max_skipped}: the gradients of as many consecutive updates (the last was "
        f"{report['update']}) were not finite, and the weights have not moved; {report['summary']} ({run / TROUBLE} "
        f"lists the sentence pairs). Lower optim.lr={config.optim.lr:g}, lengthen schedule.warmup_updates="
        f"{config.schedule.warmup_updates}{remedy}, or fix the data"
    )


@dataclass(frozen=True)
class Finding:
    """Where numbers cease to be finite."""

    place: str  # weights, forward, loss, backward, or sum: nowhere but in the sum of all gradients
    name: str = ""  # of a module for forward, else of a parameter; empty for loss
    kind: str = ""  # type of the module
    rows: list[int] | None = None  # of the batch, that are concerned; None: it cannot be said
    loss: float = 0.0  # of the batch, nats

    @property
    def summary(self) -> str:
        """Say it in words."""
        largest = f", the largest in {self.name}" if self.name else ""
        return {
            "weights": f"the weights {self.name} themselves are not finite",
            "forward": f"the first module to go wrong is {self.name} ({self.kind})",
            "loss": "all modules compute finite numbers, and the logits or the loss are not finite",
            "backward": f"the loss is finite, and the first gradient that is not is that of {self.name}",
            "sum": f"every batch has finite gradients{largest}, and their sum or its norm overflows",
        }[self.place]


def _investigate(step: UpdateStep, text: SavesItself | None) -> dict[str, Any]:
    """Compute the last update again; return the report of the lowest rank on which something goes wrong.

    Every part is computed to its end, so that ranks which share out their weights keep step.
    """
    assert step.last is not None, "no update has been made"
    ranks, attempt = step.ranks, step.last
    found: list[tuple[Part, Finding]] = []
    for part in attempt.parts:
        with Watch(step.module, len(part.batch.src), passes=2 if step.config.train.r_drop else 1) as watch:
            loss = float(step.add_gradients(attempt, part, is_last=False)[0])
        if finding := watch.first(loss):
            found.append((part, finding))
    rank = ranks.lowest(bool(found))
    if rank == ranks.world_size:  # nobody found anything
        rank, found = 0, [(attempt.parts[0], _largest_gradient(step.module))]
    step.optimizer.zero_grad(set_to_none=True)
    report: dict[str, Any] = ranks.broadcast(_report(step, *found[0], text) if ranks.rank == rank else None, src=rank)
    return report


class Watch:
    """Looks at every tensor that goes into or comes out of a module, and at every parameter's gradient."""

    def __init__(self, model: nn.Module, num_rows: int, passes: int = 1) -> None:
        """`num_rows`: sentences of the batch, by which a tensor's first dimension is told to be that of sentences.

        `passes`: how often the batch goes through the model, side by side.
        """
        self.model, self.num_rows, self.passes = model, num_rows, passes
        self._forward: Finding | None = None
        self._backward: Finding | None = None
        self._active: list[tuple[str, str]] = []  # modules at work, outermost first
        self._hooks = ExitStack()
        self._watched: set[int] = set()  # parameters, by identity

    def __enter__(self) -> Watch:
        for name, module in self.model.named_modules():
            who = (name or "model", type(module).__name__)
            before = module.register_forward_pre_hook(partial(self._enter_module, name, who), with_kwargs=True)
            after = module.register_forward_hook(partial(self._leave_module, who))
            self._hooks.callback(before.remove)
            self._hooks.callback(after.remove)
        self._watch_gradients("", self.model.named_parameters())
        return self

    def _watch_gradients(self, prefix: str, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        for name, parameter in parameters:
            if parameter.requires_grad and id(parameter) not in self._watched:
                self._watched.add(id(parameter))
                self._hooks.callback(parameter.register_hook(partial(self._see_gradient, prefix + name)).remove)

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def first(self, loss: float) -> Finding | None:
        """Return where numbers first ceased to be finite, in the order of computation; None if nowhere."""
        broken = [name for name, parameter in self.model.named_parameters() if not parameter.isfinite().all()]
        if broken:
            return Finding("weights", broken[0], loss=loss)
        finding = self._forward or (self._backward if math.isfinite(loss) else Finding("loss"))
        return finding and replace(finding, loss=loss)

    def _enter_module(self, name: str, who: tuple[str, str], module: nn.Module, args: Any, kwargs: Any) -> None:
        # where weights are sharded, a module has others while it works, and those are the ones with gradients
        self._watch_gradients(f"{name}." if name else "", module.named_parameters(recurse=False))
        if self._active:  # what goes into a module was computed by the one that calls it
            self._look(self._active[-1], (args, kwargs))
        self._active.append(who)

    def _leave_module(self, who: tuple[str, str], _: nn.Module, args: Any, output: Any) -> None:
        self._active.pop()
        self._look(who, output)

    def _look(self, who: tuple[str, str], values: Any) -> None:
        for tensor in _tensors(values):
            if self._forward is None and not tensor.isfinite().all():
                is_bad = ~tensor.isfinite().flatten(1).all(1) if tensor.dim() > 1 else ~tensor.isfinite()
                rows = None
                if len(is_bad) == self.num_rows * self.passes:
                    rows = sorted({row % self.num_rows for row in is_bad.nonzero().flatten().tolist()})
                self._forward = Finding("forward", *who, rows)

    def _see_gradient(self, name: str, gradient: Tensor) -> None:
        if self._backward is None and not gradient.isfinite().all():
            self._backward = Finding("backward", name)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of real numbers in what a module takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.dim():
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif is_dataclass(value):
        yield from _tensors(tuple(getattr(value, field.name) for field in fields(value)))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _largest_gradient(model: nn.Module) -> Finding:
    sizes = {name: float(p.grad.abs().max()) for name, p in model.named_parameters() if p.grad is not None}
    return Finding("sum", max(sizes, key=lambda name: sizes[name], default=""))  # sharded gradients are not at hand


def _report(step: UpdateStep, part: Part, finding: Finding, text: SavesItself | None) -> dict[str, Any]:
    assert step.last is not None
    indices = part.batch.indices
    rows = range(len(indices)) if finding.rows is None else finding.rows
    return {
        "update": step.last.number + 1,
        "rank": step.ranks.rank,
        "micro_step": part.micro_step,
        "precision": str(step.compute.precision),
        "loss_scale": step.scaler.get_scale(),
        "lr": step.lr(step.last.number),
        "loss": finding.loss if math.isfinite(finding.loss) else str(finding.loss),
        "place": finding.place,
        "name": finding.name,
        "kind": finding.kind,
        "summary": finding.summary,
        "batch": list(indices),
        "sentences": [_sentence(part, row, text) for row in rows if row < len(indices)],
    }


def _sentence(part: Part, row: int, text: SavesItself | None) -> dict[str, Any]:
    """Return number and content of a pair, without </s>: pieces where the text pipeline is known, else ids."""
    batch = part.batch
    src: list[Any] = batch.src[row, : int(batch.src_lengths[row]) - 1].tolist()
    tgt: list[Any] = batch.tgt[row][batch.tgt[row] != PAD][:-1].tolist()
    if isinstance(text, TextPipeline):
        src, tgt = text.source_pieces(src), text.target_pieces(tgt)
    return {"index": batch.indices[row], "src": src, "tgt": tgt}
