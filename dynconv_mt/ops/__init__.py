"""Lightweight and dynamic convolution as torch operators; they know tensors and nothing else of the project."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.ops.decoding import ConvState, dynamic_conv_step, light_conv_step
    from dynconv_mt.ops.functional import dynamic_conv, light_conv
    from dynconv_mt.ops.library import backend, check_device

__all__ = ["ConvState", "backend", "check_device", "dynamic_conv", "dynamic_conv_step", "light_conv", "light_conv_step"]

_EXPORTS = {
    "ConvState": "decoding",
    "backend": "library",
    "check_device": "library",
    "dynamic_conv": "functional",
    "dynamic_conv_step": "decoding",
    "light_conv": "functional",
    "light_conv_step": "decoding",
}
if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(__name__, _EXPORTS)
