"""What a model is: a tree of plain dataclasses, written to and read from `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from typing import Any, ClassVar, TypeVar, get_type_hints

from dynconv_mt.errors import UserError, one_of


class Norm(StrEnum):
    """Where LayerNorm stands: before each sub-block (and once at the end), or after each residual sum."""

    pre = "pre"
    post = "post"


class Positions(StrEnum):
    """Position signal added to the embedding; the first token has position 2 and padding does not count."""

    sinusoidal = "sinusoidal"
    learned = "learned"
    none = "none"


class Tying(StrEnum):
    """Which embedding matrices are one: none, decoder input and output, or source, target and output."""

    none = "none"
    decoder = "decoder"
    all = "all"


@dataclass
class MixerConfig:
    """Base of every token mixer's config. The *type* of the config chooses the mixer (see `mixers.register_mixer`)."""

    name: ClassVar[str] = ""  # how config.json calls this type; set by `mixer_config`
    heads: int = 8  # H: attention heads, or groups of channels that share a kernel

    def check(self, option: str, dim: int, layers: int) -> None:
        """Raise UserError where this config does not fit a stack of `layers` layers of width `dim`."""
        if self.heads < 1 or dim % self.heads:
            raise UserError(f"{option}.heads={self.heads}: must divide the {dim} channels of a layer")


MIXER_CONFIGS: dict[str, type[MixerConfig]] = {}
C = TypeVar("C", bound=MixerConfig)
T = TypeVar("T")


def mixer_config(name: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: enter a mixer's config type under the name that config.json uses for it."""

    def enter(config_type: type[C]) -> type[C]:
        config_type.name = name
        MIXER_CONFIGS[name] = config_type
        return config_type

    return enter


def check_probabilities(section: str, config: Any, *names: str) -> None:
    """Raise UserError, naming the option `section.name`, where a dropout probability of `config` is none."""
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value < 1.0:
            raise UserError(f"{section}.{name}={value}: a probability must be at least 0 and below 1")


@mixer_config("attention")
@dataclass
class AttentionConfig(MixerConfig):
    """Multi-head self-attention (Vaswani et al., 2017)."""

    dropout: float = 0.0  # on the attention probabilities

    def check(self, option: str, dim: int, layers: int) -> None:
        """Raise UserError for heads that do not divide the channels or a dropout that is no probability."""
        super().check(option, dim, layers)
        check_probabilities(option, self, "dropout")


@dataclass
class ConvConfig(MixerConfig):
    """What LightConv and DynamicConv have in common (paper, sections 3 and 4)."""

    kernel_sizes: list[int] = field(default_factory=lambda: [3, 7, 15, 31, 31, 31, 31])  # K, one per layer, in taps
    conv_dim: int | None = None  # channels of the convolution; None: the model's dim
    glu: bool = True  # gated linear unit after the input projection
    softmax: bool = True  # normalise the taps of a kernel
    input_dropout: float = 0.0  # before the input projection, a probability
    weight_dropout: float = 0.0  # DropConnect on the normalised taps, a probability

    def check(self, option: str, dim: int, layers: int) -> None:
        """Raise UserError for a kernel list of the wrong length, heads that do not divide the channels and the like."""
        if self.conv_dim is not None and self.conv_dim < 1:
            raise UserError(f"{option}.conv_dim={self.conv_dim}: must be at least 1, or null for the model's dim")
        super().check(option, self.conv_dim or dim, layers)
        check_probabilities(option, self, "input_dropout", "weight_dropout")
        sizes = f"{option}.kernel_sizes={self.kernel_sizes}"
        if len(self.kernel_sizes) != layers:
            raise UserError(f"{sizes}: {len(self.kernel_sizes)} sizes for {layers} layers; give one size per layer")
        if min(self.kernel_sizes) < 1:
            raise UserError(f"{sizes}: a kernel has at least 1 tap")


@mixer_config("light_conv")
@dataclass
class LightConvConfig(ConvConfig):
    """One kernel per head for all positions (paper, section 3)."""


@mixer_config("dynamic_conv")
@dataclass
class DynamicConvConfig(ConvConfig):
    """A kernel per head and position, predicted from the current position (paper, section 4)."""


@dataclass
class StackConfig:
    """A stack of equal layers: the encoder or the decoder. What is null here is as for the whole model."""

    layers: int = 6  # number of layers; 0 for the encoder makes a decoder-only language model
    ffn_dim: int = 2048  # width of the feed-forward sub-block
    mixer: MixerConfig = field(default_factory=AttentionConfig)
    dim: int | None = None  # width of embeddings and layers; None: model.dim
    norm: Norm | None = None  # where LayerNorm stands; None: model.norm
    final_norm: bool | None = None  # one more LayerNorm after the last layer; None: with norm=pre only
    positions: Positions | None = None  # position signal; None: model.positions
    max_positions: int | None = None  # tokens, </s> included; None: model.max_positions

    def __post_init__(self) -> None:
        """Raise UserError for a word that is none of those that may be given."""
        if self.norm is not None:
            self.norm = one_of(Norm, "norm", self.norm)
        if self.positions is not None:
            self.positions = one_of(Positions, "positions", self.positions)


@dataclass(frozen=True)
class Stack:
    """A stack with nothing left open: what its modules are built from."""

    name: str  # encoder or decoder
    layers: int
    ffn_dim: int
    mixer: MixerConfig
    dim: int
    norm: Norm
    final_norm: bool
    positions: Positions
    max_positions: int
    vocab_size: int

    def check(self) -> None:
        """Raise UserError, naming the option, where the parts do not fit together."""
        option = f"model.{self.name}"
        if self.layers < 1:
            raise UserError(f"{option}.layers={self.layers}: must be at least 1")
        if self.ffn_dim < 1:
            raise UserError(f"{option}.ffn_dim={self.ffn_dim}: must be at least 1")
        if self.dim < 2 or self.dim % 2:
            raise UserError(f"{option}.dim={self.dim}: must be even and at least 2 (half sines, half cosines)")
        if self.max_positions < 1:
            raise UserError(f"{option}.max_positions={self.max_positions}: must be at least 1")
        self.mixer.check(f"{option}.mixer", self.dim, self.layers)


@dataclass
class ModelConfig:
    """An encoder-decoder. Vocabulary sizes are filled in from the data when training starts."""

    dim: int = 512  # D: width of embeddings and layers
    encoder: StackConfig = field(default_factory=StackConfig)
    decoder: StackConfig = field(default_factory=StackConfig)
    cross_heads: int = 8  # heads of the decoder's attention over the encoder
    dropout: float = 0.1  # after embedding and each sub-block
    attention_dropout: float = 0.0  # on cross-attention probabilities
    relu_dropout: float = 0.0  # inside the feed-forward sub-block
    norm: Norm = Norm.post
    tying: Tying = Tying.all
    positions: Positions = Positions.sinusoidal
    max_positions: int = 1024  # tokens a side, </s> included (size of a learned position table)
    src_vocab_size: int = 0  # types; 0: from the data
    tgt_vocab_size: int = 0  # types; 0: from the data

    def __post_init__(self) -> None:
        """Raise UserError for a word that is none of those that may be given."""
        self.norm = one_of(Norm, "model.norm", self.norm)
        self.tying = one_of(Tying, "model.tying", self.tying)
        self.positions = one_of(Positions, "model.positions", self.positions)

    @property
    def is_language_model(self) -> bool:
        """Whether there is no encoder: the model predicts a text from its beginning alone."""
        return self.encoder.layers == 0

    def stack(self, name: str) -> Stack:
        """Return the stack "encoder" or "decoder", with everything that its config leaves to the model filled in."""
        own: StackConfig = getattr(self, name)
        norm = self.norm if own.norm is None else own.norm
        return Stack(
            name=name,
            layers=own.layers,
            ffn_dim=own.ffn_dim,
            mixer=own.mixer,
            dim=self.dim if own.dim is None else own.dim,
            norm=norm,
            final_norm=norm is Norm.pre if own.final_norm is None else own.final_norm,
            positions=self.positions if own.positions is None else own.positions,
            max_positions=self.max_positions if own.max_positions is None else own.max_positions,
            vocab_size=self.src_vocab_size if name == "encoder" else self.tgt_vocab_size,
        )

    def check(self) -> None:
        """Raise UserError, naming the option, where the parts do not fit together."""
        check_probabilities("model", self, "dropout", "attention_dropout", "relu_dropout")
        if self.dim < 2 or self.dim % 2:
            raise UserError(f"model.dim={self.dim}: must be even and at least 2 (half sines, half cosines)")
        self.stack("decoder").check()
        if self.is_language_model:
            self._check(self.tying is not Tying.all, "tying", "there is no source side to share with")
            return
        self.stack("encoder").check()
        dims = self.stack("encoder").dim, self.stack("decoder").dim
        self._check(self.cross_heads >= 1 and dims[1] % self.cross_heads == 0, "cross_heads", f"must divide {dims[1]}")
        if self.tying is Tying.all and self.src_vocab_size != self.tgt_vocab_size:
            raise UserError(
                f"model.tying=all: needs one vocabulary for both sides, but they have {self.src_vocab_size} and "
                f"{self.tgt_vocab_size} types; preprocess with bpe.joint=true, or choose model.tying=decoder"
            )
        same = "needs one width for both sides; choose decoder"
        self._check(self.tying is not Tying.all or dims[0] == dims[1], "tying", same)

    def _check(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise UserError(f"model.{name}={getattr(self, name)}: {rule}")


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return the JSON form of a config dataclass; a mixer's config carries its name under "type"."""
    data: dict[str, Any] = {"type": config.name} if isinstance(config, MixerConfig) else {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        value = value.value if isinstance(value, Enum) else value
        data[entry.name] = config_to_dict(value) if is_dataclass(value) else value
    return data


def config_from_dict(data: dict[str, Any]) -> ModelConfig:
    """Return the ModelConfig whose JSON form is `data`. Raises UserError for an unknown mixer or field."""
    try:
        stacks = {side: _stack_from_dict(data[side]) for side in ("encoder", "decoder")}
        return _construct(ModelConfig, {**data, **stacks})
    except (KeyError, TypeError) as error:  # of what is no mapping, or lacks a part
        raise UserError(f"config.json: does not describe a model ({error!r}); was it altered?") from None


def _stack_from_dict(data: dict[str, Any]) -> StackConfig:
    mixer = {**data["mixer"]}
    name = mixer.pop("type")
    if name not in MIXER_CONFIGS:
        raise UserError(
            f"config.json: this model uses the token mixer {name!r}, and only {', '.join(sorted(MIXER_CONFIGS))} are "
            "registered; import the package that defines it (DYNCONV_MT_PLUGINS=package)"
        )
    return _construct(StackConfig, {**data, "mixer": _construct(MIXER_CONFIGS[name], mixer)})


def _construct(config_type: type[T], values: dict[str, Any]) -> T:
    try:
        return config_type(**_with_members(config_type, values))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json: {config_type.__name__}: {error}; was it written by a newer version?") from None


def _with_members(config_type: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values with members of enums where a plugin's mixer wants them; our own configs see to theirs themselves."""
    if not issubclass(config_type, MixerConfig):
        return values
    try:
        kinds = get_type_hints(config_type)
    except NameError:  # of a type that is known within a function only
        return values
    return {
        name: kinds[name](value) if isinstance(kinds.get(name), type) and issubclass(kinds[name], Enum) else value
        for name, value in values.items()
    }
