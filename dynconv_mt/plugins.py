"""Mixers and architectures from outside: modules that register them when they are imported."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import entry_points

from dynconv_mt.errors import UserError

VARIABLE = "DYNCONV_MT_PLUGINS"  # module[,module]
GROUP = "dynconv_mt.plugins"  # entry points of installed packages


def import_plugins() -> None:
    """Import the modules named in DYNCONV_MT_PLUGINS and by entry points of installed packages.

    Raises UserError, with the reason, for one that cannot be imported.
    """
    modules = {name.strip(): VARIABLE for name in os.environ.get(VARIABLE, "").split(",") if name.strip()}
    modules |= {point.module: f"entry point {point.name}" for point in entry_points(group=GROUP)}
    for module, origin in modules.items():
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, ModuleNotFoundError) and error.name == module:
                reason = "there is no such module; is its folder in PYTHONPATH?"
            raise UserError(f"{origin}={module}: this plugin cannot be imported ({reason})") from error
