"""Machine translation with lightweight and dynamic convolutions, from raw text to a scored translation.

translator = dynconv_mt.load_translator("RUN")
translations = translator.translate(["A dog runs through the grass."])
"""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.errors import UserError as UserError
    from dynconv_mt.translate import Translation as Translation
    from dynconv_mt.translate import Translator as Translator
    from dynconv_mt.translate import load_translator as load_translator

__version__ = "0.1.0"

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(
        __name__,
        {"Translation": "translate", "Translator": "translate", "UserError": "errors", "load_translator": "translate"},
    )
