"""The operators as torch knows them: schemas, which kernel runs where, shapes, gradients, autocast.

Shapes: B sentences, T positions, C channels, H heads, K taps.

    dynconv_mt::dynamic_conv   x (B, T, C), logits (B, T, H·K), …  →  y (B, T, C)
    dynconv_mt::light_conv     x (B, T, C), weight (H, K), …       →  y (B, T, C)
    dynconv_mt::…_backward     grad_y, then all that the forward took  →  gradients by x and by logits or weight
    dynconv_mt::…_step         new positions of a decoder, over a state that it changes; see `decoding`

The reference is registered for every device. Compiled kernels (`csrc/`, a shared library beside this file) fill the
dispatch keys CPU and CUDA of the same schemas, which then go before it. A kernel gets tensors of any strides and
arguments that `functional` has checked: `seed` (1,) int64 wherever dropout > 0; `lengths` (B,) int64; dtypes equal but
for float32 `weight` beside half-precision x. It returns contiguous tensors: y and grad_x in the dtype of x, the other
gradient in that of what it belongs to. DropConnect's mask is defined in `dropconnect`.

The environment variable DYNCONV_MT_OPS, read once, says which kernels run: `reference` leaves compiled ones out,
`compiled` insists on them, and without it they run if they are there. DYNCONV_MT_CPU, which compiled ones read, chooses
a lower instruction set than the processor has.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynconv_mt.errors import UserError
from dynconv_mt.ops import reference
from dynconv_mt.ops.build import CSRC, is_current

NAMESPACE = "dynconv_mt"
OPTIONS = "int padding_left, bool softmax, float dropout"
INPUTS = {  # operator: (its inputs, its options); options are keyword-only
    "dynamic_conv": ("Tensor x, Tensor logits, Tensor? seed, Tensor? lengths", f"int kernel_size, {OPTIONS}"),
    "light_conv": ("Tensor x, Tensor weight, Tensor? seed, Tensor? lengths", OPTIONS),
}
STEPS = {"dynamic_conv_step": "Tensor logits", "light_conv_step": "Tensor weight"}  # operator: what taps come from
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def fake_forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the shape of y."""
    return x.new_empty(x.shape)


def fake_backward(grad_y: Tensor, x: Tensor, taps: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Return the shapes of both gradients."""
    return x.new_empty(x.shape), taps.new_empty(taps.shape)


def save_inputs(
    ctx: Any, inputs: tuple[Tensor | None, ...], keyword_only_inputs: dict[str, Any], output: Tensor
) -> None:
    """Keep what the backward needs: the inputs. The mask is drawn again from the seed."""
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs


def differentiate(name: str) -> Callable[[Any, Tensor], tuple[Tensor | None, ...]]:
    """Return the autograd formula that calls the operator's backward."""
    backward = getattr(getattr(torch.ops, NAMESPACE), f"{name}_backward")

    def gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward(grad_y, *ctx.saved_tensors, **ctx.options), None, None)

    return gradients


def refuse(ctx: Any, *grads: Tensor) -> None:
    """Stop at second derivatives, which would else come out as zero."""
    raise NotImplementedError("light_conv and dynamic_conv have no second derivatives")


def is_autocast(device_type: str) -> bool:
    """Return whether autocast is on for a kind of device; never for one that it does not know, such as meta."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def cast(name: str, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and taps as autocast wants them: activations change their dtype, LightConv's small weight does not."""
    if x.dtype is torch.float64:  # which autocast leaves alone everywhere
        return x, taps
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), taps.to(dtype) if name.startswith("dynamic_conv") else taps.float()


def autocast(name: str, device_type: str) -> Callable[..., Tensor]:
    """Return the kernel that runs under autocast."""
    operator = getattr(getattr(torch.ops, NAMESPACE), name)

    def run(x: Tensor, taps: Tensor, *inputs: Tensor | None, **options: Any) -> Tensor:
        x, taps = cast(name, x, taps)
        with torch.autocast(device_type, enabled=False):
            y: Tensor = operator(x, taps, *inputs, **options)
        return y

    return run


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a reference operator compute in the precision it chooses: its products would follow autocast's."""

    def run(first: Tensor, *inputs: Tensor | None, **options: Any) -> Any:
        device_type = first.device.type
        with torch.autocast(device_type, enabled=False) if is_autocast(device_type) else nullcontext():
            return function(first, *inputs, **options)

    return run


def register(name: str) -> None:
    """Declare an operator and its backward, and everything about them but compiled kernels."""
    inputs, options = INPUTS[name]
    backward = f"{name}_backward"
    schemas = {
        name: f"({inputs}, *, {options}) -> Tensor",
        backward: f"(Tensor grad_y, {inputs}, *, {options}) -> (Tensor, Tensor)",
    }
    for operator, schema in schemas.items():
        _LIBRARY.define(operator + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(operator, without_autocast(getattr(reference, operator)), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake_forward)
    torch.library.register_fake(f"{NAMESPACE}::{backward}", fake_backward)
    torch.library.register_autograd(f"{NAMESPACE}::{name}", differentiate(name), setup_context=save_inputs)
    torch.library.register_autograd(f"{NAMESPACE}::{backward}", refuse)
    for device_type in ("cpu", "cuda"):
        _LIBRARY.impl(name, autocast(name, device_type), f"Autocast{device_type.upper()}")


def register_step(name: str) -> None:
    """Declare an operator of decoding, which changes two of its inputs and has no gradient."""
    state = "Tensor(a!) buffer, Tensor(b!) slots"
    schema = f"(Tensor x, {STEPS[name]}, {state}, *, SymInt position, bool softmax) -> Tensor"
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, without_autocast(getattr(reference, name)), "CompositeExplicitAutograd")
    _LIBRARY.impl(name, noting_changes(name), "ADInplaceOrView", with_keyset=True)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake_forward)


def noting_changes(name: str) -> Callable[..., Tensor]:
    """Return the kernel that lets autograd know that a step changes its state: what it has saved of that is void."""
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default

    def run(keys: Any, x: Tensor, taps: Tensor, buffer: Tensor, slots: Tensor, **options: Any) -> Tensor:
        torch.autograd.graph.increment_version((buffer, slots))
        with torch._C._AutoDispatchBelowADInplaceOrView():
            y: Tensor = operator.redispatch(
                keys & torch._C._after_ADInplaceOrView_keyset, x, taps, buffer, slots, **options
            )
        return y

    return run


def load_compiled(folder: Path) -> None:
    """Load the compiled kernels of `folder`, if there are any; a library that does not load is named and left out.

    Those for GPUs, `_C_cuda.so`, are for a torch with CUDA.
    """
    for path in sorted(folder.glob("_C*.so")):
        if path.stem == "_C_cuda" and torch.version.cuda is None:
            continue
        if CSRC.is_dir() and not is_current(path, CSRC, "cuda" if path.stem == "_C_cuda" else "cpu"):
            warnings.warn(f"{path} is older than its sources; run {build_command()}", stacklevel=2)
        try:
            torch.ops.load_library(path)
        except OSError as error:
            reason = error.__cause__ or error  # torch's own error only names the file
            warnings.warn(f"{path} does not load, so the slower reference operators run: {reason}", stacklevel=2)


def backend(device: str | torch.device) -> str:
    """Return what the operators run on a device such as "cpu" or "cuda:1": "compiled" kernels or the "reference"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(torch.device(device).type)
    names = [f"{NAMESPACE}::{name}" for name in (*INPUTS, *(f"{name}_backward" for name in INPUTS), *STEPS)]
    is_compiled = key is not None and all(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for name in names)
    return "compiled" if is_compiled else "reference"


def load_chosen(choice: str) -> None:
    """Load compiled kernels as DYNCONV_MT_OPS says. Raises UserError where a variable has another value than it may."""
    if choice not in {"", "compiled", "reference"}:
        raise UserError(f"DYNCONV_MT_OPS={choice}: expected compiled or reference, or nothing")
    instructions = os.environ.get("DYNCONV_MT_CPU", "")
    if instructions not in {"", "avx512", "avx2", "portable"}:
        raise UserError(f"DYNCONV_MT_CPU={instructions}: expected avx512, avx2 or portable, or nothing")
    if choice != "reference":
        load_compiled(Path(__file__).parent)
    if choice == "compiled":
        require_compiled("cpu", build_command())


def build_command(arch: str = "") -> str:
    """Return the command that compiles the kernels, those for GPUs of an architecture where one is named."""
    if CSRC.is_dir():
        return "python -m dynconv_mt.ops.build" + (f" --cuda {arch}" if arch else "")
    variable = f"DYNCONV_MT_CUDA_ARCHS={arch} " if arch else ""
    return f"{variable}pip install --no-build-isolation . in a checkout, outside of which the package is installed"


def require_compiled(device_type: str, command: str) -> None:
    """Raise UserError, which names the command to build them, where there are no compiled kernels for such devices."""
    if backend(device_type) != "compiled":
        raise UserError(f"DYNCONV_MT_OPS=compiled: there are no kernels for device={device_type}; run {command}")


def check_device(device: torch.device) -> None:
    """Raise UserError where the operators would not run on a GPU as they should: its kernels are for other GPUs."""
    if device.type != "cuda":
        return
    major, minor = torch.cuda.get_device_capability(device)
    command = build_command(f"{major}{minor}")
    if os.environ.get("DYNCONV_MT_OPS") == "compiled":
        require_compiled("cuda", command)
    archs = compiled_archs() if backend(device) == "compiled" else []
    if archs and not runs_on(archs, (major, minor)):
        raise UserError(
            f"device={device}: is of architecture {major}{minor}, and the compiled kernels are for {', '.join(archs)}; "
            f"run {command}, or set DYNCONV_MT_OPS=reference"
        )


def compiled_archs() -> list[str]:
    """Return the architectures, such as 90, that the loaded kernels for GPUs were compiled for."""
    library = ctypes.CDLL(str(Path(__file__).parent / "_C_cuda.so"))
    text = (ctypes.c_char * 256).in_dll(library, "dynconv_mt_archs").value.decode()
    return text.removeprefix("dynconv_mt archs ").split(";")


def runs_on(archs: Sequence[str], capability: tuple[int, int]) -> bool:
    """Return whether kernels compiled for `archs`, with PTX of the last, run on a GPU of a compute capability.

    Machine code runs within its major version, on its minor and later ones, 90a on 90 alone; PTX on any later GPU, that
    of a family such as 100f within its major version.
    """
    parsed = [(int(arch.rstrip("af")[:-1]), int(arch.rstrip("af")[-1]), arch[-1]) for arch in archs]
    major, minor = capability
    fits = [(x, y) == capability or (kind != "a" and x == major and y <= minor) for x, y, kind in parsed]
    x, y, kind = parsed[-1]
    return any(fits) or (kind.isdigit() and (x, y) <= capability)


for _name in INPUTS:
    register(_name)
for _name in STEPS:
    register_step(_name)
load_chosen(os.environ.get("DYNCONV_MT_OPS", ""))
