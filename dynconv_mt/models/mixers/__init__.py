"""Token mixers: what lets positions exchange information. Importing this package registers the built-in ones."""

from dynconv_mt.models.mixers import attention, conv
from dynconv_mt.models.mixers.base import MixerSlot, MixerState, Padding, TokenMixer, build_mixer, register_mixer

__all__ = ["MixerSlot", "MixerState", "Padding", "TokenMixer", "attention", "build_mixer", "conv", "register_mixer"]
