"""Where Hydra ends: from what was typed to a job, a plain dataclass. Nothing else imports hydra or omegaconf.

The compose API, not `@hydra.main`: a mistake becomes a UserError, and no files appear. A job is composed, later entries
winning, of the defaults in its dataclass (with `model=NAME` put in), the recipe's section, and the command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from dynconv_mt.cli.arguments import Arguments, check_names, to_override
from dynconv_mt.cli.commands import COMMANDS, Command
from dynconv_mt.cli.options import TYPE, Option, options_of
from dynconv_mt.cli.recipes import read_recipe
from dynconv_mt.errors import UserError
from dynconv_mt.models.config import MIXER_CONFIGS, ModelConfig, config_from_dict
from dynconv_mt.models.presets import preset, preset_names, translation_preset_names

CONFIGS = "dynconv_mt.configs"
INIT = "init_from"  # the option whose model brings the architecture
_CHOSEN = "chosen"  # what ConfigStore calls the one recipe that is in use


@dataclass(frozen=True)
class Composed:
    """The options of a command, put together. Its methods raise UserError for values that fit no option."""

    command: Command
    arguments: Arguments
    architecture: str  # its name; empty where there is none, or a model to begin with brings it
    config: DictConfig

    def missing(self) -> list[str]:
        """Return the options that must be given and are not, in the order of --help."""
        with self._explaining():
            names = OmegaConf.missing_keys(self.config)
            return [name for name in _top_level(self.command) if name in names]

    def yaml(self) -> str:
        """Return the options as YAML, as a recipe where the command takes one; `???` stands for what is missing."""
        with self._explaining():
            # without types, which words have not
            plain = OmegaConf.create(OmegaConf.to_container(self.config, enum_to_str=True))
            for name, option in options_of(self.command.job).items():
                for word, value in option.words.items():
                    if OmegaConf.select(self.config, name) == value:  # auto, not the number that stands for it
                        OmegaConf.update(plain, name, word)
            options: Any = OmegaConf.to_container(plain)
            if options.get("text_from"):  # which brings these along
                del options["text"], options["bpe"]
            if self.command.has_model and not OmegaConf.is_missing(self.config, "model"):
                options["model"] = self._named(options["model"])
            return OmegaConf.to_yaml({self.command.section: options} if self.command.has_recipe else options)

    def _named(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Add what values do not tell: the architecture's name, and the mixers that they are options of."""
        named = {"name": self.architecture, **model} if self.architecture else dict(model)
        for stack in ("encoder", "decoder"):
            kind: Any = OmegaConf.get_type(self.config.model[stack], "mixer")
            named[stack]["mixer"] = {TYPE: kind.name, **named[stack]["mixer"]}
        return named

    def job(self) -> Any:
        """Return the job, an object of the command's job type. Raises UserError where options are missing."""
        if names := self.missing():
            raise UserError(_describe_missing(self.command, names))
        with self._explaining():
            _check_numbers(self.config, self.command)
            return OmegaConf.to_object(self.config)

    def _explaining(self) -> AbstractContextManager[None]:
        return _explained(self.command, self.arguments)


def compose(command: Command, arguments: Arguments) -> Composed:
    """Put the options of `command` together.

    Raises UserError for unknown options, values of the wrong type, unknown recipes and architectures.
    """
    check_names(command, arguments.values)
    typed = dict(arguments.values)
    for option in ("recipe", "model", INIT):
        if typed.get(option) == "":  # of a shell's variable that is not set, perhaps
            raise UserError(f"{option}=: must be a name; leave the option out, or name one")
    recipe = typed.pop("recipe", "")
    section = _recipe_section(recipe, command) if recipe else {}
    architecture = _choose_model(section, recipe)
    options = options_of(command.job)
    model = typed.pop("model", architecture)
    if model != architecture:
        _check_leaves_a_model(section, options, recipe, model)
    mixers = _choose_mixers(typed, section)
    overrides = {name: _parse(options[name], value) for name, value in typed.items()}
    init_from, out_dir = (
        overrides[name].value() if name in overrides else section.get(name) for name in (INIT, "out_dir")
    )
    architecture = model if init_from is None else ""
    if init_from == "":
        raise UserError(f"recipe={recipe}: {INIT} must be a name; leave the option out, or name one")
    _register(command, _base_model(init_from, out_dir, architecture), mixers, section)
    lines = [str(override.input_line) for override in overrides.values()] + [f"recipe={_CHOSEN}"] * bool(section)
    with _explained(command, arguments), hydra.initialize_config_module(CONFIGS, version_base="1.3"):
        return Composed(command, arguments, architecture, hydra.compose(command.section, lines))


@contextmanager
def _explained(command: Command, arguments: Arguments) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into UserError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, command, arguments) from None


def _check_numbers(config: DictConfig, command: Command) -> None:
    """Raise UserError for an option that is infinite or not a number, or a whole number of more than 64 bits."""
    for name in options_of(command.job):
        value = OmegaConf.select(config, name)
        numbers = value if isinstance(value, ListConfig) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"{name}={value}: must be a finite number")
        if any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
            raise UserError(f"{name}={value}: must be a number of at most 63 bits")


def _base_model(init_from: Any, out_dir: Any, architecture: str) -> ModelConfig | None:
    """The architecture that options change: that of the model to begin with, or a named one; None where none is.

    A run that goes on has it from there already, and no longer needs that model.
    """
    if init_from is not None:
        from dynconv_mt.models.io import read_config, resolve_model_dir  # torch: --cfg need not wait for it otherwise
        from dynconv_mt.train.run_folder import read_job_going_on

        job = read_job_going_on(Path(out_dir)) if isinstance(out_dir, str) else None
        if job is not None and job.get(INIT) is not None and "model" in job:
            return config_from_dict(job["model"])
        return read_config(resolve_model_dir(str(init_from), INIT))
    return preset(architecture) if architecture else None


def _register(
    command: Command, model: ModelConfig | None, mixers: Mapping[str, str], section: Mapping[str, Any]
) -> None:
    """Put the defaults of all options, and the recipe's section, where configs/<command>.yaml finds them."""
    schema = OmegaConf.structured(command.job)
    if model is not None:
        # assigned, not merged: a merge could not turn the default mixer's config into one of another type
        schema.model = _with_mixers(model, mixers)
    store = ConfigStore.instance()
    store.store(f"{command.section}_job", schema)
    store.store(_CHOSEN, dict(section), group="recipe", package="_global_")


def _with_mixers(model: ModelConfig, names: Mapping[str, str]) -> ModelConfig:
    """Give stacks other token mixers, with those options of the architecture's own that they share."""
    for stack, name in names.items():
        config, chosen = getattr(model, stack), MIXER_CONFIGS[name]
        shared = [field.name for field in fields(chosen) if hasattr(config.mixer, field.name)]
        config.mixer = chosen(**{option: getattr(config.mixer, option) for option in shared})
    return model


def _recipe_section(recipe: str, command: Command) -> dict[str, Any]:
    """The options that a recipe has for this command, all of them known."""
    where = f"recipe={recipe}: "
    try:
        content = OmegaConf.to_container(OmegaConf.create(read_recipe(recipe)))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{where}is not YAML: {' '.join(str(error).split())}") from None
    sections = [name for name, other in COMMANDS.items() if other.has_recipe]
    if not isinstance(content, dict) or not content.keys() <= set(sections):
        raise UserError(f"{where}a recipe consists of the sections {', '.join(sections)}, and nothing else")
    section = content.get(command.section) or {}
    if not isinstance(section, dict):
        raise UserError(f"{where}{command.section}: must hold options, one a line")
    if dotted := [key for key in _keys(section) if "." in key]:
        outer, _, inner = dotted[0].partition(".")
        raise UserError(
            f"{where}{command.section}: {dotted[0]}: write {outer}: {{{inner}: ...}}, an option in its group"
        )
    if "recipe" in section:
        raise UserError(f"{where}{command.section}: a recipe cannot name another one")
    names = [name for name in _flatten(section) if name != "model.name" or not command.has_model]
    check_names(command, names, where=f"{where}in the section {command.section}, ")
    try:
        return _read_values(section, options_of(command.job))
    except UserError as error:
        raise UserError(f"{where}{command.section}.{error}") from None


def _read_values(section: Mapping[Any, Any], options: Mapping[str, Option], prefix: str = "") -> dict[str, Any]:
    """The section with the values that words such as auto stand for, and without what --cfg showed to be missing.

    YAML's no is no text, not even Norwegian.
    """
    values: dict[str, Any] = {}
    for key, value in section.items():
        if value == MISSING:
            continue
        name = f"{prefix}{key}"
        option = options.get(name)
        if isinstance(value, Mapping):
            values[str(key)] = _read_values(value, options, f"{name}.")
        elif isinstance(value, str):
            values[str(key)] = option.words.get(value, value) if option else value
        elif isinstance(value, bool) and option and option.is_text:
            word = "no" if value is False else "yes"
            raise UserError(f"{name}: YAML reads this word as {str(value).lower()}; write it in quotes, '{word}'")
        else:
            values[str(key)] = value
    return values


def _choose_model(section: dict[str, Any], recipe: str) -> str:
    """Take the architecture's name out of a recipe's section: `model: NAME`, or `model: {name: NAME, dropout: 0.2}`."""
    model = section.pop("model", None)
    if isinstance(model, dict):
        section["model"] = {name: value for name, value in model.items() if name != "name"}
        model = model.get("name")
    if model is not None and model not in preset_names():
        raise UserError(
            f"recipe={recipe}: model {model} is not known; there are {', '.join(translation_preset_names())}"
        )
    return model or ""


def _check_leaves_a_model(section: Mapping[str, Any], options: Mapping[str, Option], recipe: str, name: str) -> None:
    """Raise UserError where a recipe, as --cfg prints them, leaves nothing of a model for its name to decide."""
    of_model = {option for option in options if option.startswith("model.") and ".mixer." not in option}
    if of_model <= set(_flatten(section)):
        raise UserError(
            f"model={name}: recipe={recipe} has every option of another model; of its section train.model leave the "
            "name, and what is to differ"
        )


def _choose_mixers(typed: dict[str, str], section: Mapping[str, Any]) -> dict[str, str]:
    """Take the token mixer of each stack out of what was typed and out of the recipe's section."""
    chosen = {}
    for stack in ("encoder", "decoder"):
        option = f"model.{stack}.mixer.{TYPE}"
        name = section.get("model", {}).get(stack, {}).get("mixer", {}).pop(TYPE, None)
        name = typed.pop(option, name)
        if name is None:
            continue
        if name not in list(MIXER_CONFIGS):  # a recipe may hold anything there, lists too
            raise UserError(f"{option}={name}: must be one of {', '.join(MIXER_CONFIGS)}")
        chosen[stack] = name
    return chosen


def _keys(section: Mapping[Any, Any]) -> Iterator[str]:
    """The names of all options and groups, as they are written."""
    for name, value in section.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from _keys(value)


def _flatten(section: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all values."""
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _parse(option: Option, value: str) -> Override:
    """The override of one option. Raises UserError unless Hydra's grammar takes it for a single value."""
    with suppress(HydraException):
        override = OverridesParser.create().parse_override(to_override(option, value))
        if not override.is_sweep_override() and not isinstance(override.value(), dict):
            return override
    raise UserError(f"{option.name}={value}: must be {option.kind}")


def _explain(error: BaseException, command: Command, arguments: Arguments) -> UserError:
    """Say what is wrong in the user's terms: the option as typed, the value, the rule."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "full_key", None):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return UserError(" ".join(str(error).split()))
    name = re.sub(r"\[\d+\]$", "", str(getattr(cause, "full_key", "")))
    option, value = options_of(command.job).get(name), arguments.values.get(name)
    typed = name if value is None else f"{name}={value}"
    if value is None and "recipe" in arguments.values:
        typed = f"recipe={arguments.values['recipe']}: {command.section}.{name}"
    if name == "model":
        return UserError(_describe_missing(command, ["model"]))
    if option is None:
        return UserError(f"{typed}: {str(cause).splitlines()[0]}")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        chosen = f"model={arguments.values['model']}" if "model" in arguments.values else "the chosen model"
        remedy = "leave the option out" if value is not None else "take it out of the recipe, or choose another model"
        owners = ", ".join(option.only_for)
        return UserError(
            f"{typed}: is an option of the token mixers {owners}; {chosen} has another one there; {remedy}"
        )
    return UserError(f"{typed}: must be {option.kind}")


def _top_level(command: Command) -> list[str]:
    """The names that can be missing, in the order of --help."""
    return [*options_of(command.job), "model"]


def _describe_missing(command: Command, names: list[str]) -> str:
    text = f"{', '.join(f'{name}=' for name in names)}: required, and not given"
    if "model" in names:
        names_of = ", ".join(translation_preset_names())
        text += f"; model= takes an architecture ({names_of}), recipe= names one, and init_from= brings one"
    return f"{text}; {command.name} --help lists all options"
