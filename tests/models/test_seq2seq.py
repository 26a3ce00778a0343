"""The whole encoder-decoder, over mixers, norms, tyings and positions."""

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import (
    MIXER_CONFIGS,
    AttentionConfig,
    DynamicConvConfig,
    LightConvConfig,
    MixerConfig,
    ModelConfig,
    Norm,
    Positions,
    StackConfig,
    Tying,
    config_from_dict,
    config_to_dict,
)
from dynconv_mt.models.init import initialise
from dynconv_mt.models.io import load_model, resolve_model_dir, save_model
from dynconv_mt.models.mixers import base
from dynconv_mt.models.mixers.base import MixerSlot, TokenMixer, build_mixer, register_mixer
from dynconv_mt.models.presets import preset, preset_names
from dynconv_mt.models.seq2seq import Seq2Seq, build_model, new_model

LENGTHS = torch.tensor([6, 3, 1])
SRC = torch.randint(4, 40, (3, 6)).masked_fill(torch.arange(6) >= LENGTHS[:, None], 1)
PREV = torch.randint(4, 40, (3, 7))


def small(name: str, **changes: object) -> ModelConfig:
    changes = {"src_vocab_size": 40, "tgt_vocab_size": 40, **changes}
    return replace(preset(f"{name}_tiny"), **changes)  # type: ignore[arg-type]


MIXED = ModelConfig(
    dim=32,
    encoder=StackConfig(2, 64, LightConvConfig(4, [3, 5], conv_dim=48)),
    decoder=StackConfig(3, 48, DynamicConvConfig(4, [3, 5, 9], softmax=False)),
    norm=Norm.pre,
    tying=Tying.none,
    positions=Positions.learned,
    src_vocab_size=40,
    tgt_vocab_size=44,
)
CONFIGS = {
    "transformer": small("transformer"),
    "lightconv": small("lightconv"),
    "dynamicconv": small("dynamicconv"),
    "mixed": MIXED,
    "decoder_tied_prenorm": small("dynamicconv", norm=Norm.pre, tying=Tying.decoder),
    "sides_apart": replace(
        MIXED,
        encoder=StackConfig(1, 64, AttentionConfig(4), dim=48, norm=Norm.post, positions=Positions.none),
        decoder=StackConfig(2, 48, AttentionConfig(4), final_norm=False, max_positions=7),
        tying=Tying.decoder,
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    torch.manual_seed(0)
    model = build_model(CONFIGS[request.param])
    assert isinstance(model, Seq2Seq)
    return model.eval()


@torch.no_grad()
def test_steps_equal_the_full_forward(model: Seq2Seq) -> None:
    expected = model(SRC, LENGTHS, PREV)
    state = model.start(model.encode(SRC, LENGTHS), beam=1, max_length=7)
    pieces = [model.step(part[:, None], state)[:, 0] for part in PREV.split([1, 1, 3, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_sentence_does_not_depend_on_its_batch(model: Seq2Seq) -> None:
    together = model(SRC, LENGTHS, PREV)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = model(SRC[b : b + 1, :length], LENGTHS[b : b + 1], PREV[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_selected_and_reordered_sentences(model: Seq2Seq) -> None:
    state = model.start(model.encode(SRC, LENGTHS), beam=2, max_length=7)
    model.step(PREV[:, None, :2], state)
    state.reorder(torch.zeros(3, 2, dtype=torch.int64))
    state.select(torch.tensor([2, 1]))
    tails = torch.randint(4, 40, (2, 2, 1))
    y = model.step(tails, state)[:, :, -1]
    for row, b in enumerate([2, 1]):
        for slot in range(2):
            prev = torch.cat([PREV[b, :2], tails[row, slot]])[None]
            expected = model(SRC[b : b + 1], LENGTHS[b : b + 1], prev)[:, -1]
            torch.testing.assert_close(y[row, slot][None], expected, atol=2e-5, rtol=1e-4)


def test_saved_and_loaded_it_is_the_same(model: Seq2Seq, tmp_path: Path) -> None:
    save_model(tmp_path / "model", model, provenance={"updates": 3})
    loaded = load_model(resolve_model_dir(tmp_path))
    assert loaded.config == model.config
    assert torch.equal(loaded(SRC, LENGTHS, PREV), model(SRC, LENGTHS, PREV))


def test_every_weight_is_initialised_and_gets_a_gradient() -> None:
    model = build_model(MIXED)
    assert isinstance(model, Seq2Seq)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    initialise(model)
    model(SRC, LENGTHS, PREV).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.grad is not None, name
    assert not model.encoder.embedding.tokens.weight[1].any()


@pytest.mark.parametrize("name", preset_names())
def test_presets_fit_together_and_survive_json(name: str) -> None:
    config = replace(preset(name), src_vocab_size=40, tgt_vocab_size=40)
    config.check()
    assert config_from_dict(config_to_dict(config)) == config
    with torch.device("meta"):
        new_model(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 127}, "model.dim=127"),
        ({"cross_heads": 3}, "model.cross_heads=3"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"tgt_vocab_size": 41}, "model.tying=all"),
        (
            {"encoder": StackConfig(2, 8, DynamicConvConfig(4, [3]))},
            r"model.encoder.mixer.kernel_sizes=\[3\]: 1 sizes for 2",
        ),
        ({"decoder": StackConfig(1, 8, LightConvConfig(5, [3]))}, "model.decoder.mixer.heads=5"),
        ({"src_vocab_size": 0, "tgt_vocab_size": 0}, "src_vocab_size=0"),
        ({"decoder": StackConfig(2, 8, AttentionConfig(2), dim=64)}, "model.tying=all: needs one width"),
        ({"encoder": StackConfig(2, 8, AttentionConfig(2), dim=7)}, "model.encoder.dim=7"),
        ({"encoder": StackConfig(0)}, "model.tying=all: there is no source side"),
        ({"decoder": StackConfig(0)}, "model.decoder.layers=0"),
        ({"encoder": StackConfig(1, 0, LightConvConfig(4, [3]))}, "model.encoder.ffn_dim=0"),
        ({"encoder": StackConfig(1, 8, LightConvConfig(4, [3], conv_dim=-4))}, "model.encoder.mixer.conv_dim=-4"),
        ({"encoder": StackConfig(1, 8, LightConvConfig(4, [3], weight_dropout=1.0))}, "mixer.weight_dropout=1.0"),
        ({"decoder": StackConfig(1, 8, LightConvConfig(4, [3], input_dropout=-1.0))}, "mixer.input_dropout=-1.0"),
        ({"decoder": StackConfig(1, 8, AttentionConfig(2, 2.0))}, "model.decoder.mixer.dropout=2.0"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(small("dynamicconv", **change))


def test_config_files_of_before_a_side_had_options_of_its_own_can_be_read() -> None:
    data = config_to_dict(MIXED)
    for side in ("encoder", "decoder"):
        data[side] = {name: data[side][name] for name in ("layers", "ffn_dim", "mixer")}
    assert config_from_dict(data) == MIXED
    with pytest.raises(UserError, match=r"config\.json: .*positions=rotary: must be one of"):
        config_from_dict({**data, "positions": "rotary"})


def test_a_wrong_architecture_gets_the_list() -> None:
    with pytest.raises(UserError, match=r"did you mean dynamicconv_tiny.*transformer_wmt_zh_en_big"):
        preset("dynamiconv_tiny")


def test_damaged_model_directories_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, build_model(CONFIGS["lightconv"]))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: is damaged"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: is damaged"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        resolve_model_dir(tmp_path / "nowhere")


PAPER = {  # dim, ffn_dim, heads, glu; dropout, of attention, DropConnect, of the input; layers of the Transformer
    "iwslt_de_en": (512, 1024, 4, False, 0.3, 0.1, 0.1, 0.0, 6),
    "wmt_en_de": (512, 2048, 8, True, 0.1, 0.0, 0.0, 0.1, 6),
    "wmt_en_de_big": (1024, 4096, 16, True, 0.3, 0.1, 0.1, 0.1, 6),
    "wmt_en_fr_big": (1024, 4096, 16, True, 0.1, 0.1, 0.1, 0.1, 6),
    "wmt_zh_en_big": (1024, 4096, 16, True, 0.2, 0.2, 0.2, 0.1, 6),
}


@pytest.mark.parametrize("mixer", ["transformer", "lightconv", "dynamicconv"])
@pytest.mark.parametrize("name", PAPER)
def test_named_architectures_are_the_papers(mixer: str, name: str) -> None:
    dim, ffn_dim, heads, glu, dropout, attention_dropout, weight_dropout, input_dropout, layers = PAPER[name]
    config = preset(f"{mixer}_{name}")
    assert (config.dim, config.dropout, config.attention_dropout) == (dim, dropout, attention_dropout)
    assert (config.cross_heads, config.norm) == (heads, Norm.post)
    kernels = ([3, 7, 15, 31, 31, 31, 31], [3, 7, 15, 31, 31, 31])
    for stack, sizes in zip((config.encoder, config.decoder), kernels, strict=True):
        assert stack.ffn_dim == ffn_dim
        if mixer == "transformer":
            assert stack.layers == layers
            assert stack.mixer == AttentionConfig(heads, attention_dropout)
        else:
            config_type = LightConvConfig if mixer == "lightconv" else DynamicConvConfig
            assert stack.layers == len(sizes)
            assert stack.mixer == config_type(
                heads=heads,
                kernel_sizes=sizes,
                glu=glu,
                weight_dropout=weight_dropout,
                input_dropout=input_dropout,
            )


PLAIN = ModelConfig(
    32,
    StackConfig(1, 48, AttentionConfig(4)),
    StackConfig(1, 48, LightConvConfig(4, [3])),
    4,
    dropout=0.0,
    src_vocab_size=40,
    tgt_vocab_size=40,
)
DROPOUTS: dict[str, dict[str, Any]] = {
    "none": {},
    "residual": {"dropout": 0.5},
    "relu": {"relu_dropout": 0.5},
    "cross-attention": {"attention_dropout": 0.5},
    "self-attention": {"encoder": StackConfig(1, 48, AttentionConfig(4, 0.5))},
    "input": {"decoder": StackConfig(1, 48, LightConvConfig(4, [3], input_dropout=0.5))},
    "taps": {"decoder": StackConfig(1, 48, LightConvConfig(4, [3], weight_dropout=0.5))},
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_every_dropout_acts_and_in_training_only(name: str) -> None:
    torch.manual_seed(1)
    model = build_model(replace(PLAIN, **DROPOUTS[name])).eval()
    evaluated = model(SRC, LENGTHS, PREV)
    assert torch.equal(evaluated, model(SRC, LENGTHS, PREV))
    is_same = torch.allclose(evaluated, model.train()(SRC, LENGTHS, PREV), atol=1e-4)
    assert is_same == (name == "none")


def test_words_stand_for_members_of_enums(tmp_path: Path) -> None:
    """What a library user writes as text is what it says, in the model and in what is read from its folder."""
    words: Any = {"norm": "pre", "tying": "none", "positions": "learned"}
    members: Any = {"norm": Norm.pre, "tying": Tying.none, "positions": Positions.learned}
    one, other = (build_model(small("lightconv", **values)) for values in (words, members))
    assert {name: tensor.shape for name, tensor in one.state_dict().items()} == {
        name: tensor.shape for name, tensor in other.state_dict().items()
    }
    save_model(str(tmp_path / "model"), one)
    assert load_model(str(tmp_path / "model")).config == one.config == other.config
    assert StackConfig(norm="pre").norm is Norm.pre  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"model\.norm=both: must be one of pre, post"):
        small("lightconv", norm="both")


def test_a_compiled_model_is_saved_as_what_it_was_made_of(tmp_path: Path) -> None:
    model = build_model(small("transformer"))
    save_model(tmp_path / "model", torch.compile(model))  # type: ignore[arg-type]
    loaded = load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


class Kind(Enum):
    mean = "mean"
    max = "max"


@dataclass
class KindConfig(MixerConfig):
    kind: Kind = Kind.mean


def test_enums_of_a_mixer_come_back_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXER_CONFIGS, "of_a_kind", KindConfig)
    monkeypatch.setattr(KindConfig, "name", "of_a_kind")
    config = small("transformer", encoder=StackConfig(1, 8, KindConfig(4, Kind.max)))
    data = json.loads(json.dumps(config_to_dict(config)))
    assert data["encoder"]["mixer"]["kind"] == "max"
    assert config_from_dict(data) == config
    data["encoder"]["mixer"]["kind"] = "median"
    with pytest.raises(UserError, match=r"config\.json: KindConfig: 'median' is not a valid Kind"):
        config_from_dict(data)


def test_a_mixer_without_a_step_is_for_encoders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_MIXERS", base.registered_mixers())  # as it is afterwards

    @dataclass
    class HalfConfig(MixerConfig):
        pass

    @register_mixer(HalfConfig)
    class Half(TokenMixer):
        def forward(self, x: torch.Tensor, padding: object = None) -> torch.Tensor:
            return x

    assert isinstance(build_mixer(HalfConfig(), MixerSlot(8, 0, causal=False)), Half)
    with pytest.raises(UserError, match="Half: a token mixer must define start, step"):
        build_mixer(HalfConfig(), MixerSlot(8, 0, causal=True))


INIT = ModelConfig(
    64,
    StackConfig(1, 96, AttentionConfig(4)),
    StackConfig(1, 96, DynamicConvConfig(4, [31])),
    4,
    tying=Tying.none,
    positions=Positions.learned,
    src_vocab_size=500,
    tgt_vocab_size=500,
)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("encoder.layers.0.ffn.input.weight", (2 / (64 + 96)) ** 0.5),
        ("encoder.layers.0.mixer.input.weight", 128**-0.5),
        ("decoder.layers.0.cross.query.weight", 128**-0.5),
        ("decoder.layers.0.cross.memory.weight", 128**-0.5),
        ("decoder.layers.0.mixer.predictor.weight", (3 * 64) ** -0.5),
        ("encoder.embedding.tokens.weight", 64**-0.5),
        ("encoder.embedding.positions.weight", 64**-0.5),
        ("decoder.output.weight", 64**-0.5),
    ],
)
def test_weights_begin_as_the_table_says(name: str, std: float) -> None:
    torch.manual_seed(1)
    assert dict(build_model(INIT).named_parameters())[name].std().item() == pytest.approx(std, rel=0.05)
