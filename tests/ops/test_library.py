"""The operators as citizens of torch: compile, export, autocast, checkpointing; and how they refuse wrong arguments."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynconv_mt.ops import backend, dynamic_conv, light_conv
from dynconv_mt.ops.build import TARGET
from dynconv_mt.ops.library import load_compiled

B, T, C, H, K = 2, 9, 8, 2, 3
X, LOGITS, WEIGHT = torch.randn(B, T, C), torch.randn(B, T, H * K), torch.randn(H, K)
SEED, LENGTHS = torch.tensor([7]), torch.tensor([9, 4])
OPERATORS = torch.ops.dynconv_mt


def both(x: Tensor, logits: Tensor, weight: Tensor, seed: Tensor | None = None) -> Tensor:
    """Return dynamic_conv, then light_conv, both with dropout if there is a seed."""
    options: dict[str, Any] = {"dropout": 0.2 if seed is not None else 0.0, "seed": seed, "lengths": LENGTHS}
    return light_conv(dynamic_conv(x, logits, K, 1, **options).relu(), weight, 2, **options)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the sum of a function's result by X, LOGITS and WEIGHT."""
    leaves = [tensor.clone().requires_grad_() for tensor in (X, LOGITS, WEIGHT)]
    return torch.autograd.grad(function(*leaves, *inputs).sin().sum(), leaves)


@pytest.mark.parametrize("optional", [(SEED, LENGTHS), (None, None)], ids=["seed", "plain"])
@pytest.mark.parametrize("name", ["dynamic_conv", "light_conv", "dynamic_conv_backward", "light_conv_backward"])
def test_opcheck(name: str, optional: tuple[Tensor | None, ...]) -> None:
    options = {"padding_left": 1, "softmax": True, "dropout": 0.0 if optional[0] is None else 0.2}
    is_backward = name.endswith("backward")
    x = X.clone().requires_grad_(not is_backward)
    taps = (LOGITS if name.startswith("dynamic") else WEIGHT).clone().requires_grad_(not is_backward)
    if name.startswith("dynamic"):
        options["kernel_size"] = K
    inputs = (torch.randn(B, T, C), x, taps, *optional) if is_backward else (x, taps, *optional)
    torch.library.opcheck(getattr(OPERATORS, name).default, inputs, options)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_in_one_graph(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    torch.testing.assert_close(gradients(compiled, SEED), gradients(both, SEED))


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="torch's compiler needs one for C++")
def test_compiled_to_machine_code() -> None:
    """Beside other operators, which torch fuses around ours."""
    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True)
    torch.testing.assert_close(gradients(compiled, SEED), gradients(both, SEED))


def test_exported_for_any_batch() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, logits: Tensor, lengths: Tensor) -> Tensor:
            return light_conv(dynamic_conv(x, logits, K, 1, lengths=lengths), WEIGHT, 2, lengths=lengths)

    batch, time = torch.export.Dim("batch", max=64), torch.export.Dim("time", max=512)
    shapes = ({0: batch, 1: time}, {0: batch, 1: time}, {0: batch})
    exported = torch.export.export(Both(), (X, LOGITS, LENGTHS), dynamic_shapes=shapes).module()
    other = (torch.randn(5, 40, C), torch.randn(5, 40, H * K), torch.tensor([40, 1, 2, 39, 7]))
    torch.testing.assert_close(exported(*other), Both()(*other))


def test_autocast_leaves_the_light_weight_in_float32() -> None:
    def run(x: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return both(x, logits, weight)

    half = both(X.bfloat16(), LOGITS.bfloat16(), WEIGHT)
    assert half.dtype == torch.bfloat16
    assert torch.equal(run(X, LOGITS, WEIGHT), half)
    assert torch.equal(run(X, LOGITS.bfloat16(), WEIGHT), half)
    assert run(X.double(), LOGITS.double(), WEIGHT.double()).dtype == torch.float64
    eager = gradients(run)
    assert all(gradient.dtype == torch.float32 for gradient in eager)
    torch._dynamo.reset()
    torch.testing.assert_close(gradients(torch.compile(run, fullgraph=True, backend="aot_eager")), eager)


def test_gradients_do_not_depend_on_where_autocast_ends() -> None:
    """The backward computes in float32 at least, also where it is called within autocast."""
    found = []
    for is_within in (True, False):
        inputs = [tensor.clone().requires_grad_() for tensor in (X, LOGITS, WEIGHT)]
        with torch.autocast("cpu", torch.bfloat16):
            y = both(*inputs)
            if is_within:
                y.float().sum().backward()
        if not is_within:
            y.float().sum().backward()
        found.append([tensor.grad for tensor in inputs])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_shapes_alone() -> None:
    x, logits, weight = (tensor.to("meta") for tensor in (X, LOGITS, WEIGHT))
    assert dynamic_conv(x, logits, K, 1).shape == light_conv(x, weight, 1).shape == X.shape


def test_checkpointing_draws_the_same_mask() -> None:
    def draw(x: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
        return both(x, logits, weight, torch.randint(2**62, (1,)))

    def recompute(*inputs: Tensor) -> Tensor:
        y: Tensor = checkpoint(draw, *inputs, use_reentrant=False)
        return y

    torch.manual_seed(0)
    expected = gradients(draw)
    torch.manual_seed(0)
    torch.testing.assert_close(gradients(recompute), expected)


def test_second_derivatives_are_refused() -> None:
    x = X.clone().requires_grad_()
    (grad_x,) = torch.autograd.grad(dynamic_conv(x, LOGITS, K, 1).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad_x.sum().backward()


@pytest.mark.parametrize("name", ["x", "taps"])
@pytest.mark.parametrize("is_dynamic", [True, False])
def test_forward_mode_is_refused(name: str, is_dynamic: bool) -> None:
    """Tangents would be dropped without a word."""
    inputs = {"x": X, "taps": LOGITS if is_dynamic else WEIGHT}

    def call(tensor: torch.Tensor) -> torch.Tensor:
        x, taps = {**inputs, name: tensor}.values()
        return dynamic_conv(x, taps, K, 1) if is_dynamic else light_conv(x, taps, 1)

    with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
        torch.func.jvp(call, (inputs[name],), (torch.ones_like(inputs[name]),))
    with torch.autograd.forward_ad.dual_level():
        assert call(inputs[name]).shape == X.shape


def test_backend() -> None:
    is_built = TARGET.is_file() and os.environ.get("DYNCONV_MT_OPS") != "reference"
    assert backend("cpu") == ("compiled" if is_built else "reference")
    if torch.version.cuda is None:
        assert backend(torch.device("cuda:1")) == "reference"
    assert backend("meta") == "reference"


def test_a_broken_library_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "_C.abi3.so").write_bytes(b"no machine code")
    with pytest.warns(UserWarning, match="does not load, so the slower reference operators run"):
        load_compiled(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_compiled(tmp_path / "nowhere")


DYNAMIC: dict[str, Any] = {"x": X, "logits": LOGITS, "kernel_size": K, "padding_left": 1}
LIGHT: dict[str, Any] = {"x": X, "weight": WEIGHT, "padding_left": 1}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (DYNAMIC, {"x": X[0]}, r"x: expected shape \(B, T, C\), found \(9, 8\)"),
    (DYNAMIC, {"x": X.long()}, r"x: expected float32, .*, found torch.int64"),
    (DYNAMIC, {"kernel_size": 0}, "kernel_size=0: a kernel has at least 1 tap"),
    (DYNAMIC, {"logits": LOGITS[:, :4]}, r"logits: expected shape \(2, 9, H·3\) .*, found \(2, 4, 6\)"),
    (DYNAMIC, {"kernel_size": 4}, r"logits: expected shape \(2, 9, H·4\) .*, found \(2, 9, 6\)"),
    (DYNAMIC, {"logits": torch.randn(B, T, 9)}, r"logits: its 3 heads do not divide the 8 channels of x \(2, 9, 8\)"),
    (DYNAMIC, {"logits": LOGITS.double()}, "logits: expected torch.float32, the dtype of x, found torch.float64"),
    (DYNAMIC, {"logits": LOGITS.to("meta")}, "logits: expected on cpu, the device of x, found on meta"),
    (LIGHT, {"weight": LOGITS}, r"weight: expected shape \(H, K\), found \(2, 9, 6\)"),
    (LIGHT, {"weight": torch.randn(3, K)}, "weight: its 3 heads do not divide the 8 channels"),
    (LIGHT, {"weight": WEIGHT.bfloat16()}, r"weight: expected torch.float32, the dtype of x, found torch.bfloat16"),
    (LIGHT, {"x": X.double()}, r"weight: expected torch.float64, the dtype of x, found torch.float32"),
    (LIGHT, {"dropout": 1.0, "seed": SEED}, r"dropout=1.0: a probability of at least 0 and below 1"),
    (LIGHT, {"dropout": 0.1}, r"seed: needed for dropout=0.1"),
    (LIGHT, {"dropout": 0.1, "seed": torch.tensor([1, 2])}, r"seed: expected one number of torch.int64, found \(2,\)"),
    (LIGHT, {"dropout": 0.1, "seed": torch.rand(1)}, r"seed: .*found \(1,\) of torch.float32"),
    (LIGHT, {"lengths": torch.tensor([1, 2, 3])}, r"lengths: expected \(2,\) integers .*found \(3,\) of torch.int64"),
    (LIGHT, {"dropout": 0.1, "seed": 5}, r"seed: needed for dropout=0.1; .*, found 5"),
    (LIGHT, {"lengths": [1, 2]}, r"lengths: expected a tensor of \(2,\) integers, found \[1, 2\]"),
    (LIGHT, {"lengths": torch.rand(2)}, r"lengths: .*found \(2,\) of torch.float32"),
]


@pytest.mark.parametrize(("arguments", "change", "message"), WRONG)
def test_wrong_arguments_are_named(arguments: dict[str, Any], change: dict[str, Any], message: str) -> None:
    operator = dynamic_conv if "logits" in arguments else light_conv
    with pytest.raises(ValueError, match=message):
        operator(**{**arguments, **change})
