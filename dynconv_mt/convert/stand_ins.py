"""Stand-ins for the classes whose objects checkpoints hold beside tensors: no code of those classes ever runs.

torch's restricted unpickler takes a class of ours for each name in `ALLOWED`, and refuses every other name.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 30  # of nested options; those of real checkpoints have four levels


class Discarded:
    """Stands for an object that is not wanted. It keeps nothing and can do nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass


class Node:
    """Stands for a node of omegaconf, the configurations that some versions of fairseq pickled as they were.

    Of a node's state it keeps the value: a dict or a list of nodes, or a single one.
    """

    value: Any = None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.value = state.get("_content", state.get("_val"))


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value with the content of nodes in place of nodes. Raises ValueError where they nest without end."""
    if depth > MAX_DEPTH:
        raise ValueError("its options are nested without end")
    if isinstance(value, Node):
        return plain(value.value, depth + 1)
    if isinstance(value, dict):
        return {name: plain(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry, depth + 1) for entry in value]
    return value


# The bookkeeping of training, which does not matter to a model
_DISCARDED = (
    *(f"fairseq.meters.{name}" for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")),
    *(f"fairseq.logging.meters.{name}" for name in ("AverageMeter", "TimeMeter", "StopwatchMeter", "SumMeter")),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
    # what omegaconf says of a node's type: these classes are named there, not used
    *("omegaconf.base.Metadata", "omegaconf.base.ContainerMetadata", "collections.defaultdict", "typing.Any"),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str")),
)
_NODES = (
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *(f"omegaconf.nodes.{name}" for name in ("AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode")),
)
ALLOWED: list[Any] = [
    Namespace,
    *((Discarded, name) for name in _DISCARDED),
    *((Node, name) for name in _NODES),
]
