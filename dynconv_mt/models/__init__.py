"""One encoder-decoder, interchangeable token mixers, named architectures."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.models.io import load_model as load_model
    from dynconv_mt.models.io import save_model as save_model
    from dynconv_mt.models.language_model import LanguageModel as LanguageModel
    from dynconv_mt.models.mixers import register_mixer as register_mixer
    from dynconv_mt.models.presets import preset as preset
    from dynconv_mt.models.presets import register_preset as register_preset
    from dynconv_mt.models.seq2seq import Seq2Seq as Seq2Seq
    from dynconv_mt.models.seq2seq import build_model as build_model

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(
        __name__,
        {
            "LanguageModel": "language_model",
            "Seq2Seq": "seq2seq",
            "build_model": "seq2seq",
            "load_model": "io",
            "preset": "presets",
            "register_mixer": "mixers",
            "register_preset": "presets",
            "save_model": "io",
        },
    )
