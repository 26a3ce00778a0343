from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynconv_mt.cli.arguments import check_names, parse, to_override
from dynconv_mt.cli.commands import COMMANDS
from dynconv_mt.cli.hydra import compose
from dynconv_mt.cli.options import REQUIRED, as_typed, options_of
from dynconv_mt.errors import UserError

TRAIN = COMMANDS["train"]


def test_flags_and_values_are_told_apart() -> None:
    arguments = parse(["data_dir=a=b", "--help", "seed=1", "seed=2", "input="])
    assert arguments.flags == {"help"}
    assert arguments.values == {"data_dir": "a=b", "seed": "2", "input": ""}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("train", "name=value"),
        ("--data-dir", "data_dir=VALUE"),
        ("--data_dir=x", "data_dir=x"),
        ("-x", "no such flag"),
        ("=3", "name=value"),
    ],
)
def test_what_is_no_option_is_refused(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse([argument])
    assert argument in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("data_dr", "data_dir"),
        ("train.max_update", "train.max_updates"),
        ("max_updates", "train.max_updates"),
        ("beam", "search.beam"),
        ("lr", "optim.lr"),
        ("model.encoder.mixer.kernel_size", "model.encoder.mixer.kernel_sizes"),
        ("recipes", "recipe"),
        ("optim", "optim.lr"),
        ("+seed", "seed"),
    ],
)
def test_an_unknown_option_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        check_names(TRAIN, [name])
    assert str(caught.value).startswith(f"{name}: ")
    assert near in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_option_says_what_it_means(command: object) -> None:
    assert command in COMMANDS.values()
    for option in options_of(command.job).values():  # type: ignore[attr-defined]
        assert option.help, f"{option.name} has no comment beside its field"
        assert option.default is REQUIRED or as_typed(option.default) is not None


# anything that can stand in an argument, except what means null or a list, and text that is quoted on purpose
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text != "null" and (text[0], text[-1]) not in {("'", "'"), ('"', '"'), ("[", "]")}
)


@given(TEXT)
@example("a=b, c (1) [x] {y} ${z} \\${w} 'q' \"r\" \\' \\\\ #!")
@example("true")
@example("1e3")
@example("\\")
def test_text_comes_through_as_it_is_typed(text: str) -> None:
    job = compose(COMMANDS["info"], parse([f"model_dir={text}"])).job()
    assert job.model_dir == text


@given(st.lists(TEXT.filter(lambda text: "," not in text and text == text.strip()), min_size=1, max_size=3))
def test_so_do_the_items_of_a_list(items: list[str]) -> None:
    job = compose(COMMANDS["average"], parse([f"inputs=[{','.join(items)}]", "out_dir=x"])).job()
    assert job.inputs == items


def test_quotes_keep_what_would_mean_something_else() -> None:
    assert compose(COMMANDS["info"], parse(["model_dir='null'"])).job().model_dir == "null"
    assert compose(COMMANDS["average"], parse(["inputs=['a, b',c]", "out_dir=x"])).job().inputs == ["a, b", "c"]
    assert compose(COMMANDS["generate"], parse(["model_dir=x", "input=null"])).job().input is None


def test_only_true_and_false_are_booleans() -> None:
    option = options_of(TRAIN.job)["train.tensorboard"]
    assert to_override(option, "False") == "train.tensorboard=False"
    with pytest.raises(UserError, match="true or false"):
        to_override(option, "7")


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    values = parse(["out_dir=~/data", "train=[~/a,b/~/c, ~/d]", "lang=~"]).values
    assert values == {"out_dir": "/home/me/data", "train": "[/home/me/a,b/~/c, /home/me/d]", "lang": "~"}


def test_a_list_with_blanks_wants_quotes() -> None:
    with pytest.raises(UserError, match=r"b\]: .* quote a list with blanks in it: 'train=\[a, b\]'"):
        parse(["train=[a,", "b]"][1:])
