from __future__ import annotations

from pathlib import Path

import pytest

from dynconv_mt.cli.arguments import parse
from dynconv_mt.cli.commands import COMMANDS
from dynconv_mt.cli.hydra import compose
from dynconv_mt.cli.jobs import GenerateJob, TrainJob
from dynconv_mt.cli.recipes import recipe_names
from dynconv_mt.errors import UserError
from dynconv_mt.models.config import AttentionConfig, DynamicConvConfig, LightConvConfig, Norm
from dynconv_mt.models.presets import preset, preset_names
from dynconv_mt.runtime import Precision
from dynconv_mt.text.config import Tokenization

REQUIRED = {
    "preprocess": ["src=de", "tgt=en", "train=a", "out_dir=b"],
    "train": ["data_dir=a", "out_dir=b"],
    "generate": ["model_dir=a"],
}


def train_job(*argv: str) -> TrainJob:
    job = compose(COMMANDS["train"], parse([*REQUIRED["train"], *argv])).job()
    assert type(job) is TrainJob
    return job


@pytest.mark.parametrize("name", preset_names())
def test_every_architecture_arrives_unchanged(name: str) -> None:
    assert train_job(f"model={name}").model == preset(name)


def test_options_of_the_mixer_reach_it() -> None:
    job = train_job("model=dynamicconv_tiny", "model.encoder.mixer.kernel_sizes=[3,7,15,31]", "model.norm=pre")
    assert type(job.model.encoder.mixer) is DynamicConvConfig
    assert job.model.encoder.mixer.kernel_sizes == [3, 7, 15, 31]
    assert job.model.norm is Norm.pre


def test_each_stack_chooses_its_mixer(tmp_path: Path) -> None:
    """What mixers share stays the architecture's; what was typed wins over the recipe."""
    job = train_job("model=dynamicconv_tiny", "model.decoder.mixer.type=attention", "model.decoder.mixer.dropout=0.1")
    assert type(job.model.encoder.mixer) is DynamicConvConfig
    assert job.model.decoder.mixer == AttentionConfig(heads=4, dropout=0.1)
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text("train:\n  model: {name: dynamicconv_tiny, encoder: {mixer: {type: light_conv}}}\n")
    sizes = preset("dynamicconv_tiny").encoder.mixer
    assert isinstance(sizes, DynamicConvConfig)
    mixed = train_job(f"recipe={recipe}").model
    assert mixed.encoder.mixer == LightConvConfig(heads=4, kernel_sizes=sizes.kernel_sizes)
    assert type(mixed.decoder.mixer) is DynamicConvConfig
    typed = train_job(f"recipe={recipe}", "model.encoder.mixer.type=attention").model
    assert type(typed.encoder.mixer) is AttentionConfig
    with pytest.raises(UserError, match=r"model\.encoder\.mixer\.type=rnn: must be one of attention, light_conv, "):
        train_job("model=dynamicconv_tiny", "model.encoder.mixer.type=rnn")
    recipe.write_text("train:\n  model: {name: dynamicconv_tiny, encoder: {mixer: {type: [a]}}}\n")
    with pytest.raises(UserError, match=r"type=\['a'\]: must be one of"):
        train_job(f"recipe={recipe}")


def test_values_have_the_types_of_their_fields() -> None:
    job = train_job("model=transformer_tiny", "precision=bf16", "optim.betas=[0.9,0.99]", "optim.lr=1e-3", "seed=7")
    assert (job.precision, job.optim.betas, job.optim.lr, job.seed) == (Precision.bf16, [0.9, 0.99], 1e-3, 7)
    assert isinstance(job.precision, Precision)


def test_the_command_line_wins_over_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "my, own=recipe.yaml"
    recipe.write_text(
        "train:\n  model: {name: dynamicconv_tiny, dropout: 0.25}\n  batch: {max_tokens: 99}\n  optim: {lr: 1e-3}\n"
    )
    job = train_job(f"recipe={recipe}", "batch.max_tokens=77")
    assert (job.batch.max_tokens, job.optim.lr, job.model.dropout) == (77, 1e-3, 0.25)
    assert type(job.model.encoder.mixer) is DynamicConvConfig
    other = train_job(f"recipe={recipe}", "model=transformer_tiny")
    assert type(other.model.decoder.mixer) is AttentionConfig
    assert other.model.dropout == 0.25
    generating = compose(COMMANDS["generate"], parse([f"recipe={recipe}", "model_dir=a"])).job()
    assert generating == compose(COMMANDS["generate"], parse(["model_dir=a"])).job()


def test_one_composition_leaves_no_trace_in_the_next() -> None:
    assert train_job("recipe=toy", "model=transformer_tiny").train.max_updates > 0
    assert train_job("model=lightconv_tiny").train.max_updates == 0
    assert type(train_job("model=lightconv_tiny").model.encoder.mixer) is LightConvConfig


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("command", ["preprocess", "train", "generate"])
def test_every_recipe_composes_and_fits_together(recipe: str, command: str) -> None:
    argv = REQUIRED[command] if command != "preprocess" else ["train=a", "out_dir=b"]
    job = compose(COMMANDS[command], parse([f"recipe={recipe}", *argv])).job()
    if not isinstance(job, GenerateJob):
        job.check()


def test_the_recipe_of_wmt14_is_the_papers() -> None:
    job = train_job("recipe=wmt14_en_de")
    assert job.model == preset("dynamicconv_wmt_en_de_big")
    assert (job.train.max_updates, job.train.batches_per_update, job.batch.max_tokens) == (30000, 8 * 16, 3584)
    assert (job.optim.lr, job.optim.betas, job.optim.weight_decay) == (1e-3, [0.9, 0.98], 1e-4)
    schedule = job.schedule
    assert (schedule.kind, schedule.warmup_updates, schedule.period_updates, schedule.min_lr) == (
        "cosine",
        10000,
        20000,
        1e-7,
    )
    generating = compose(COMMANDS["generate"], parse(["recipe=wmt14_en_de", "model_dir=a"])).job()
    assert (generating.search.beam, generating.search.length_penalty) == (5, 0.5)


def test_the_recipe_of_iwslt14_is_the_papers() -> None:
    job = train_job("recipe=iwslt14_de_en")
    assert job.model == preset("dynamicconv_iwslt_de_en")
    assert (job.train.max_updates, job.batch.max_tokens, job.optim.lr) == (50000, 4000, 5e-4)
    assert (job.schedule.kind, job.schedule.warmup_updates, job.schedule.warmup_init_lr) == ("inverse_sqrt", 4000, 1e-7)
    assert (job.checkpoint.final, job.checkpoint.average, job.checkpoint.every_epochs) == ("average", 10, 1)
    data = compose(COMMANDS["preprocess"], parse(["recipe=iwslt14_de_en", "train=a", "out_dir=b"])).job()
    assert data.text.lowercase
    assert data.text.tokenization is Tokenization.moses
    assert (data.clean.ratio, data.clean.max_length, data.bpe.vocab_size) == (1.5, 175, 10000)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["model=", "required", "dynamicconv_tiny"]),
        (["model=dynamicconv_tny"], ["model=dynamicconv_tny", "dynamicconv_tiny"]),
        (["recipe=multi"], ["recipe=multi", "multi30k"]),
        (["recipe=none.yaml"], ["recipe=none.yaml", "cannot be read"]),
        (["model=dynamicconv_tiny", "optim.lr=abc"], ["optim.lr=abc: must be a number"]),
        (["model=dynamicconv_tiny", "optim.lr=1,2"], ["optim.lr=1,2: must be a number"]),
        (["model=dynamicconv_tiny", "optim.lr=(a b"], ["optim.lr=(a b: must be a number"]),
        (["model=dynamicconv_tiny", "optim.lr="], ["optim.lr=: must be a number"]),
        (["model=dynamicconv_tiny", "optim.lr={a:1}"], ["optim.lr={a:1}: must be a number"]),
        (["model=dynamicconv_tiny", "optim.betas=0.9"], ["optim.betas=0.9: must be a list"]),
        (["model=dynamicconv_tiny", "optim.betas=[a,b]"], ["optim.betas=[a,b]: must be a list"]),
        (["model="], ["model=: must be a name"]),
        (["recipe=", "model=dynamicconv_tiny"], ["recipe=: must be a name"]),
        (["model=dynamicconv_tiny", f"seed={2**63}"], [f"seed={2**63}: must be a number of at most 63 bits"]),
        (["model=dynamicconv_tiny", "seed=1.5"], ["seed=1.5: must be a whole number"]),
        (["model=dynamicconv_tiny", "seed=null"], ["seed=null: must be a whole number"]),
        (["model=dynamicconv_tiny", "seed=${nope}"], ["seed=${nope}"]),
        (["model=dynamicconv_tiny", "precision=half"], ["precision=half: must be one of auto, fp32, bf16, fp16"]),
        (["model=dynamicconv_tiny", "optim.lr=0"], ["optim.lr=0", "above 0"]),
        (["model=transformer_tiny", "model.encoder.mixer.kernel_sizes=[3]"], ["light_conv, dynamic_conv"]),
        (["model.dropout=0.1"], ["model=", "required"]),
        (["model=dynamicconv_tiny", "batch.max_tokens=foo"], ["batch.max_tokens=foo: must be a whole number or auto"]),
        (["model=dynamicconv_tiny", "batch=3"], ["batch: is a group of options", "batch.max_tokens"]),
    ],
)
def test_mistakes_are_named_as_typed(argv: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        train_job(*argv)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_no_option_of_other_commands(tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("generate: {model: {name: dynamicconv_tiny}}")
    with pytest.raises(UserError, match=r"in the section generate, model.name: no such option of dc-generate"):
        compose(COMMANDS["generate"], parse([f"recipe={recipe}", "model_dir=a"])).job()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "is not YAML"),
        ("- a", "consists of the sections"),
        ("trainn: {}", "consists of the sections"),
        ("train: 3", "must hold options"),
        ("train: {batch: {max_token: 3}}", "batch.max_token: no such option"),
        ("train: {batch: {max_tokens: many}}", "train.batch.max_tokens: must be a whole number"),
        ("train: {model: transfomer_tiny}", "transformer_tiny"),
        ("train: {batch.max_tokens: 300}", "train: batch.max_tokens: write batch: {max_tokens: ...}"),
        ("train: {model: {encoder.layers: 3}}", "encoder.layers: write encoder: {layers: ...}"),
        ("train: {recipe: toy}", "train: a recipe cannot name another one"),
        ("train: {data_dir: no}", "train.data_dir: YAML reads this word as false; write it in quotes, 'no'"),
    ],
)
def test_a_wrong_recipe_is_named(content: str, words: str, tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError) as caught:
        train_job(f"recipe={recipe}", "model=dynamicconv_tiny")
    assert str(caught.value).startswith(f"recipe={recipe}: ")
    assert words in str(caught.value)


def test_a_number_may_name_a_corpus(tmp_path: Path) -> None:
    recipe = tmp_path / "years.yaml"
    recipe.write_text("preprocess: {src: en, tgt: de, train: 2014, valid: [2015, 2016], out_dir: d}\n")
    job = compose(COMMANDS["preprocess"], parse([f"recipe={recipe}"])).job()
    assert (job.prefixes("train"), job.prefixes("valid")) == (["2014"], ["2015", "2016"])


def test_an_interpolation_that_leads_nowhere_is_named() -> None:
    with pytest.raises(UserError, match=r"batch\.max_tokens=\$\{foo\}"):
        compose(COMMANDS["train"], parse(["model=dynamicconv_tiny", "batch.max_tokens=${foo}"])).yaml()


def test_a_word_stands_for_a_number(tmp_path: Path) -> None:
    """batch.max_tokens=auto, typed or in a recipe."""
    assert train_job("model=dynamicconv_tiny", "batch.max_tokens=auto").batch.is_auto
    recipe = tmp_path / "auto.yaml"
    recipe.write_text("train:\n  model: {name: dynamicconv_tiny}\n  batch: {max_tokens: auto}\n")
    assert train_job(f"recipe={recipe}").batch.is_auto
    assert train_job(f"recipe={recipe}", "batch.max_tokens=77").batch.max_tokens == 77
    text = compose(COMMANDS["train"], parse(["model=dynamicconv_tiny", "batch.max_tokens=auto"])).yaml()
    assert "  max_tokens: auto\n" in text and "precision: auto\n" in text


def test_all_missing_options_are_named_at_once() -> None:
    with pytest.raises(UserError, match="src=, tgt=, train=, out_dir=: required"):
        compose(COMMANDS["preprocess"], parse([])).job()


def test_cfg_shows_what_is_missing() -> None:
    text = compose(COMMANDS["train"], parse(["recipe=multi30k", "data_dir=x"])).yaml()
    assert text.startswith("train:\n")
    assert "data_dir: x\n" in text
    assert "out_dir: ???\n" in text


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", ["recipe=multi30k", "data_dir=x", "model.encoder.mixer.kernel_sizes=[3,7,15,5]", "optim.lr=1e-3"]),
        ("train", ["recipe=wmt14_en_de", "batch.max_tokens=auto", "model.encoder.norm=pre"]),
        ("train", ["model=dynamicconv_tiny", "model.decoder.mixer.type=attention", "train.max_updates=3"]),
        ("train", ["recipe=toy", "model=transformer_tiny", "model.tying=none"]),
        ("train", ["train.max_updates=3"]),
        ("preprocess", ["recipe=multi30k", "src=no", "train=[a,'b c']", "clean.ratio=null", "text.lowercase=true"]),
        ("preprocess", ["src=en", "tgt=de", "train=2024", "out_dir=a ? b: c"]),
        ("generate", ["recipe=multi30k", "search.beam=3", "evaluate.metrics=[ter]", "batch.max_sentences=null"]),
    ],
)
def test_what_cfg_prints_is_a_recipe(command: str, argv: list[str], tmp_path: Path) -> None:
    """Of the same options, to the letter; what is missing is given beside it."""
    first = compose(COMMANDS[command], parse(argv))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(first.yaml())
    again = compose(COMMANDS[command], parse([f"recipe={recipe}"]))
    assert again.yaml() == first.yaml()
    assert again.missing() == first.missing()


def test_cfg_names_architecture_and_mixers(tmp_path: Path) -> None:
    text = compose(COMMANDS["train"], parse(["model=lightconv_tiny", "model.decoder.mixer.type=attention"])).yaml()
    assert "    name: lightconv_tiny\n" in text
    assert text.index("type: light_conv\n") < text.index("type: attention\n")
    recipe = tmp_path / "whole.yaml"
    recipe.write_text(text)
    words = rf"model=transformer_tiny: recipe={recipe} has every option of another model; .* leave the name"
    with pytest.raises(UserError, match=words):
        train_job(f"recipe={recipe}", "model=transformer_tiny")


def test_a_recipes_mixer_options_beside_a_model_without_them(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train:\n  model: {name: dynamicconv_tiny, encoder: {mixer: {weight_dropout: 0.1}}}\n")
    words = "train.model.encoder.mixer.weight_dropout: .* light_conv, dynamic_conv; model=transformer_tiny has another"
    with pytest.raises(UserError, match=f"{words} one there; take it out of the recipe, or choose another model"):
        train_job(f"recipe={recipe}", "model=transformer_tiny")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("trian.max_updates=3", "train.max_updates"),
        ("model.encodr.layers=3", "model.encoder.layers"),
        ("lr=1", "optim.lr"),
    ],
)
def test_a_misspelt_section_is_recognised(typed: str, right: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {right}"):
        train_job("model=dynamicconv_tiny", typed)


@pytest.mark.parametrize("typed", ["optim.lr=inf", "train.ema_decay=nan", "optim.betas=[0.9,nan]"])
def test_numbers_are_finite(typed: str) -> None:
    name, _, value = typed.partition("=")
    with pytest.raises(UserError, match=rf"^{name}=.*{value[-4:-1]}.*: must be a finite number"):
        train_job("model=transformer_tiny", typed)
