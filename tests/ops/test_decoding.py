"""Steps over the ring buffer are the causal operator, however the beam moves.

Shapes: B sentences, W beam slots, N new positions, C channels, H heads, K taps.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynconv_mt.ops import ConvState, backend, dynamic_conv, dynamic_conv_step, light_conv, light_conv_step, reference

H, C = 2, 6
OPERATORS = torch.ops.dynconv_mt
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def full_dynamic(x: Tensor, logits: Tensor, kernel_size: int, softmax: bool) -> Tensor:
    """Return the causal dynamic_conv (B, W, T, C) of x (B, W, T, C), logits (B, W, T, H·K)."""
    y = dynamic_conv(x.flatten(0, 1), logits.flatten(0, 1), kernel_size, kernel_size - 1, softmax=softmax)
    return y.view(x.shape)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steps_are_the_causal_operator(data: st.DataObject) -> None:
    """Any numbers of new positions, beam widths, moves of the beam and departures of sentences."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), "seed"))
    kernel_size, beam = data.draw(st.integers(1, 9), "K"), data.draw(st.integers(1, 4), "beam")
    softmax, is_dynamic = data.draw(st.booleans(), "softmax"), data.draw(st.booleans(), "dynamic")
    num_sentences, num_slots = data.draw(st.integers(1, 3), "B"), data.draw(st.integers(1, beam), "W")
    weight = torch.randn(H, kernel_size, dtype=torch.float64, generator=generator)
    state = ConvState.empty(num_sentences, beam, kernel_size, torch.empty(0, C, dtype=torch.float64))
    history = torch.empty(num_sentences, num_slots, 0, C + H * kernel_size, dtype=torch.float64)  # x and logits
    for _ in range(data.draw(st.integers(1, 8), "steps")):
        num_new = data.draw(st.integers(1, 12), "N")
        new = torch.randn(*history.shape[:2], num_new, history.shape[3], dtype=torch.float64, generator=generator)
        history = torch.cat([history, new], dim=2)
        (x, logits), (new_x, new_logits) = (part.split([C, H * kernel_size], dim=3) for part in (history, new))
        if is_dynamic:
            found = dynamic_conv_step(new_x, new_logits, state, softmax=softmax)
            expected = full_dynamic(x, logits, kernel_size, softmax)
        else:
            found = light_conv_step(new_x, weight, state, softmax=softmax)
            expected = light_conv(x.flatten(0, 1), weight, kernel_size - 1, softmax=softmax).unflatten(0, x.shape[:2])
        torch.testing.assert_close(found, expected[:, :, -num_new:])
        if data.draw(st.booleans(), "sentences leave"):
            kept = torch.randperm(len(history), generator=generator)[: data.draw(st.integers(1, len(history)), "B'")]
            history = history[kept]
            state.select(kept)
        num_slots = data.draw(st.integers(1, beam), "W'")
        parents = torch.randint(history.shape[1], (len(history), num_slots), generator=generator)
        history = history[torch.arange(len(history))[:, None], parents]
        state.reorder(parents)


def test_nothing_grows_and_no_state_is_copied() -> None:
    state = ConvState.empty(2, 3, 7, torch.empty(0, C))
    buffer, shapes = state.buffer, (state.buffer.shape, state.slots.shape)
    for _ in range(50):
        dynamic_conv_step(torch.randn(2, 3, 1, C), torch.randn(2, 3, 1, H * 7), state)
        state.reorder(torch.randint(3, (2, 3)))
    assert state.buffer is buffer
    assert (state.buffer.shape, state.slots.shape) == shapes
    assert state.position == 50


@pytest.mark.parametrize("state_dtype", [None, torch.float32])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_precisions(dtype: torch.dtype, state_dtype: torch.dtype | None) -> None:
    """The state has the dtype of the inputs, or, as under autocast, that of the model."""
    if dtype is torch.float64 and state_dtype is not None:
        pytest.skip("float64 inputs need a float64 state")
    x, logits, weight = (torch.randn(size, dtype=dtype) for size in ((2, 3, 5, C), (2, 3, 5, H * 4), (H, 4)))
    states = [ConvState.empty(2, 3, 4, x.to(state_dtype or dtype)) for _ in range(2)]
    parts = zip(x.split([2, 3], dim=2), logits.split([2, 3], dim=2), strict=True)
    found = [(light_conv_step(new, weight, states[0]), dynamic_conv_step(new, rows, states[1])) for new, rows in parts]
    light, dynamic = (torch.cat(results, dim=2) for results in zip(*found, strict=True))
    assert (light.dtype, dynamic.dtype) == (dtype, dtype)
    torch.testing.assert_close(light, light_conv(x.flatten(0, 1), weight, 3).view_as(x))
    torch.testing.assert_close(dynamic, full_dynamic(x, logits, 4, True))


def random_step(data: st.DataObject, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Any]]:
    """Return x, logits, weight, buffer and slots of any sizes, and the options of a step."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), "seed"))
    kernel_size = data.draw(st.sampled_from([1, 2, 3, 7, 31, 33]), "K")
    num_heads = data.draw(st.integers(1, 3), "H")
    width = data.draw(st.sampled_from([1, 3, 4, 7, 8, 9, 16, 33, 64, 100]), "E")
    num_sentences, num_new = data.draw(st.integers(1, 3), "B"), data.draw(st.sampled_from([1, 2, 5, 40]), "N")
    beam = data.draw(st.integers(1, 4), "beam")
    ancestry = data.draw(st.integers(1, beam), "rows of slots")
    num_slots = data.draw(st.integers(1, ancestry), "W")
    rows = (num_sentences, num_slots, num_new)
    sizes = ((*rows, num_heads * width), (*rows, num_heads * kernel_size), (num_heads, kernel_size))
    past = (num_sentences, beam, kernel_size - 1, num_heads * width)
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in (*sizes, past)]
    if dtype.itemsize == 2 and data.draw(st.booleans(), "float32 buffer"):
        tensors[3] = tensors[3].float()
    slots = torch.randint(beam, (num_sentences, ancestry, kernel_size - 1), generator=generator)
    options = {"position": data.draw(st.integers(0, 200), "position"), "softmax": data.draw(st.booleans(), "softmax")}
    return [*tensors, slots], options


@pytest.mark.skipif(backend("cpu") == "reference", reason="no compiled kernels")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_kernels_agree_with_the_reference(data: st.DataObject) -> None:
    """In results and in what becomes of the state."""
    dtype = data.draw(st.sampled_from(list(TOLERANCES)), "dtype")
    (x, logits, weight, buffer, slots), options = random_step(data, dtype)
    for name, taps in (("dynamic_conv_step", logits), ("light_conv_step", weight)):
        states = [(buffer.clone(), slots.clone()) for _ in range(2)]
        found = getattr(OPERATORS, name)(x, taps, *states[0], **options)
        expected = getattr(reference, name)(x, taps, *states[1], **options)
        assert all(map(torch.equal, *states))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        tolerance = TOLERANCES[dtype] * max(expected.abs().max().item(), 1.0)
        torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_threads_change_no_step(is_dynamic: bool) -> None:
    """Results are the same to the last bit."""
    torch.manual_seed(1)
    steps = [(torch.randn(32, 5, 1, 128), torch.randn(32, 5, 1, 4 * 31)) for _ in range(40)]
    weight, parents = torch.randn(4, 31), torch.randint(5, (40, 32, 5))
    results = []
    for num_threads in (1, 2, 3, 7):
        torch.set_num_threads(num_threads)
        state = ConvState.empty(32, 5, 31, torch.empty(0, 128))
        ys = []
        for (x, logits), moves in zip(steps, parents, strict=True):
            ys.append(dynamic_conv_step(x, logits, state) if is_dynamic else light_conv_step(x, weight, state))
            state.reorder(moves)
        results.append(torch.stack(ys))
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("name", ["dynamic_conv_step", "light_conv_step"])
def test_opcheck(name: str) -> None:
    """The schema tells torch that the buffer and the slots change."""
    x, state = torch.randn(2, 2, 3, C), ConvState.empty(2, 3, 4, torch.empty(0, C))
    taps = torch.randn(2, 2, 3, H * 4) if name.startswith("dynamic") else torch.randn(H, 4)
    inputs, options = (x, taps, state.buffer, state.slots), {"position": 5, "softmax": True}
    torch.library.opcheck(getattr(OPERATORS, name).default, inputs, options)


def test_compiled_in_one_graph() -> None:
    def two_steps(x: Tensor, logits: Tensor, buffer: Tensor, slots: Tensor) -> Tensor:
        y: Tensor = OPERATORS.dynamic_conv_step(x, logits, buffer, slots, position=3, softmax=True)
        z: Tensor = OPERATORS.dynamic_conv_step(y, logits, buffer, slots, position=4, softmax=True)
        return z

    torch._dynamo.reset()
    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    states = [ConvState.empty(2, 3, 4, torch.empty(0, C)) for _ in range(2)]
    x, logits = torch.randn(2, 3, 1, C), torch.randn(2, 3, 1, H * 4)
    found, expected = (
        function(x, logits, state.buffer, state.slots)
        for function, state in zip((compiled, two_steps), states, strict=True)
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(states[0].buffer, states[1].buffer)


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_a_loop_of_steps_is_compiled_once_for_all_positions(is_dynamic: bool) -> None:
    def step(x: Tensor, taps: Tensor, state: ConvState) -> Tensor:
        return dynamic_conv_step(x, taps, state) if is_dynamic else light_conv_step(x, taps, state)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    states = [ConvState.empty(2, 3, 4, torch.empty(0, C)) for _ in range(2)]
    for _ in range(12):
        x, taps = torch.randn(2, 3, 1, C), torch.randn(2, 3, 1, H * 4) if is_dynamic else torch.randn(H, 4)
        torch.testing.assert_close(compiled(x, taps, states[0]), step(x, taps, states[1]))
    assert states[0].position == 12
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # one for the first position, one for any


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_light_weight_in_float32_beside_half_precision(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, 7, C).to(dtype), torch.randn(H, 4)
    state = ConvState.empty(2, 3, 4, x)
    found = torch.cat([light_conv_step(x[:, :, i : i + 1], weight, state) for i in range(7)], 2)
    expected = light_conv(x.flatten(0, 1), weight, 3).unflatten(0, (2, 3))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0.0, atol=TOLERANCES[dtype] * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_that_of_the_full_operators(dtype: torch.dtype) -> None:
    x, logits = torch.randn(1, 2, 5, C), torch.randn(1, 2, 5, H * 4).to(dtype)
    weight = torch.randn(H, 4)
    dynamic_state, light_state = (ConvState.empty(1, 2, 4, torch.empty(0, C)) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = dynamic_conv_step(x, logits, dynamic_state), light_conv_step(x, weight, light_state)
        expected = full_dynamic(x, logits, 4, True), light_conv(x.flatten(0, 1), weight, 3).view(x.shape)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=0.0, atol=8e-3 * other.abs().max().item())


def test_no_graph_is_kept() -> None:
    weight = torch.randn(H, 4, requires_grad=True)
    state = ConvState.empty(1, 1, 4, torch.empty(0, C))
    y = light_conv_step(torch.randn(1, 1, 1, C, requires_grad=True), weight, state)
    assert not y.requires_grad
    assert not state.buffer.requires_grad


def test_autograd_knows_that_a_step_changes_its_state() -> None:
    state, w = ConvState.empty(1, 1, 3, torch.empty(0, C)), torch.ones((), requires_grad=True)
    y = (state.buffer * w).sum()
    light_conv_step(torch.ones(1, 1, 2, C), torch.randn(H, 3), state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    with torch.inference_mode():
        inside = ConvState.empty(1, 1, 3, torch.empty(0, C))
        light_conv_step(torch.ones(1, 1, 2, C), torch.randn(H, 3), inside)
    assert inside.position == 2


def test_autocast_comes_before_the_checks() -> None:
    state = ConvState.empty(1, 1, 3, torch.empty(0, C, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert light_conv_step(torch.ones(1, 1, 1, C), torch.randn(H, 3), state).dtype is torch.bfloat16


@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (2, 4), (2,)])
def test_parents_of_another_batch_are_refused(shape: tuple[int, ...]) -> None:
    state = ConvState.empty(2, 3, 3, torch.empty(0, C))
    with pytest.raises(ValueError, match=r"parents: expected shape \(2, at most 3\), found"):
        state.reorder(torch.zeros(shape, dtype=torch.int64))


def test_wrong_arguments_are_named() -> None:
    state = ConvState.empty(2, 3, 7, torch.empty(0, C))
    x, logits = torch.randn(2, 3, 1, C), torch.randn(2, 3, 1, H * 7)
    with pytest.raises(
        ValueError, match=r"x: expected shape \(2, at most 3, N, 6\) for this state, found \(2, 4, 1, 6\)"
    ):
        dynamic_conv_step(torch.randn(2, 4, 1, C), torch.randn(2, 4, 1, H * 7), state)
    with pytest.raises(ValueError, match=r"logits: expected shape \(2, 3, 1, H·7\) .*, found \(2, 3, 1, 13\)"):
        dynamic_conv_step(x, logits[..., 1:], state)
    with pytest.raises(ValueError, match=r"weight: expected shape \(H, 7\) for this state, found \(2, 5\)"):
        light_conv_step(x, torch.randn(2, 5), state)
    with pytest.raises(ValueError, match=r"weight: its 4 heads do not divide the 6 channels"):
        light_conv_step(x, torch.randn(4, 7), state)
    for taps, operator in ((logits, dynamic_conv_step), (torch.randn(H, 7), light_conv_step)):
        with pytest.raises(ValueError, match=r"(logits|weight): expected on cpu, the device of x, found on meta"):
            operator(x, taps.to("meta"), state)
        with pytest.raises(ValueError, match=r"(logits|weight): its 0 heads do not divide"):
            operator(x, taps[..., :0] if taps is logits else taps[:0], state)
        with pytest.raises(ValueError, match=r"state.slots: expected on cpu, the device of x, found on meta"):
            operator(x, taps, ConvState(state.buffer, state.slots.to("meta")))
        with pytest.raises(ValueError, match=r"x: expected shape \(2, at most 1, N, 6\) for this state"):
            operator(x, taps, ConvState(state.buffer, state.slots[:, :1]))
    assert state.position == 0
    with pytest.raises(ValueError, match="kernel_size=0"):
        ConvState.empty(2, 3, 0, torch.empty(0, C))
    with pytest.raises(ValueError, match=r"logits: expected torch.float32, the dtype of x, found torch.float64"):
        dynamic_conv_step(x, logits.double(), state)
    with pytest.raises(ValueError, match=r"x: expected torch.float32, the dtype of this state, found torch.float64"):
        dynamic_conv_step(x.double(), logits.double(), state)
    with pytest.raises(ValueError, match="x: expected on cpu, the device of this state, found on meta"):
        dynamic_conv_step(x.to("meta"), logits.to("meta"), state)


X, LOGITS, BUFFER = torch.zeros(2, 3, 1, C), torch.zeros(2, 3, 1, H * 7), torch.zeros(2, 3, 6, C)
SLOTS = torch.zeros(2, 3, 6, dtype=torch.int64)
WRONG: list[tuple[tuple[Tensor, ...], str]] = [
    ((X[0], LOGITS, BUFFER, SLOTS), r"x: expected shape \(B, W, N, C\), found \(3, 1, 6\)"),
    ((X, LOGITS, BUFFER[1:], SLOTS), r"buffer: expected shape \(2, 3, 6, 6\), found \(1, 3, 6, 6\)"),
    ((X, LOGITS, BUFFER, SLOTS[:, :2]), "slots: expected contiguous, since it is written to"),
    ((X, LOGITS, BUFFER, SLOTS[:, :2].contiguous()), "x: expected at most 2 beam slots, found 3"),
    ((X, LOGITS, BUFFER, SLOTS.int()), "slots: expected Long, found Int"),
    ((X, LOGITS, BUFFER, SLOTS + 3), "slots: expected numbers of beam slots, 0 to 2"),
    ((X, LOGITS, BUFFER, SLOTS - 1), "slots: expected numbers of beam slots, 0 to 2"),
    ((X, LOGITS, BUFFER.bfloat16(), SLOTS), "buffer: expected Float, found BFloat16"),
    ((X, LOGITS, BUFFER.transpose(0, 1).contiguous().transpose(0, 1), SLOTS), "buffer: expected contiguous"),
    ((X, LOGITS[..., 1:], BUFFER, SLOTS), r"logits: expected shape \(2, 3, 1, 7\), found \(2, 3, 1, 13\)"),
    ((X, LOGITS.double(), BUFFER, SLOTS), "logits: expected Float, found Double"),
]


@pytest.mark.skipif(backend("cpu") == "reference", reason="no compiled kernels")
@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_direct_callers_are_checked_too(inputs: tuple[Tensor, ...], message: str) -> None:
    """A slot that does not exist would be read and written wherever it points."""
    with pytest.raises(RuntimeError, match=message):
        OPERATORS.dynamic_conv_step(*inputs, position=0, softmax=True)
    with pytest.raises(RuntimeError, match="position: expected at least 0, found -1"):
        OPERATORS.dynamic_conv_step(X, LOGITS, BUFFER, SLOTS, position=-1, softmax=True)
