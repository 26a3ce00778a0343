from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dynconv_mt
from dynconv_mt.cli.commands import COMMANDS
from dynconv_mt.cli.main import guarded, run
from dynconv_mt.cli.options import options_of
from dynconv_mt.cli.recipes import recipe_names
from dynconv_mt.errors import UserError
from dynconv_mt.models.presets import preset_names, translation_preset_names


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_names_every_option(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert command in COMMANDS.values()
    assert run(command, ["--help", "nonsense=1"]) == 0  # type: ignore[arg-type]
    text = capsys.readouterr().out
    for name in options_of(command.job):  # type: ignore[attr-defined]
        assert f"{name}=" in text or name.startswith("model.decoder")


def test_help_names_architectures_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    run(COMMANDS["train"], ["-h"])
    text = capsys.readouterr().out
    assert all(name in text for name in [*translation_preset_names(), *recipe_names()])
    assert "conv_lm" in " ".join(preset_names())
    assert "conv_lm" not in text  # which dc-train refuses


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_version(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, ["--version"]) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"{command.name} {dynconv_mt.__version__}\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_mistake_is_one_paragraph_and_2(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, ["nonsense=1"]) == 2  # type: ignore[arg-type]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"{command.name}: error: nonsense: no such option")  # type: ignore[attr-defined]
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_that_comes_when_all_is_done_changes_nothing(name: str) -> None:
    lines = "import signal, sys", "from dynconv_mt.cli.main import final", "code = final(3)"
    script = "; ".join([*lines, f"signal.raise_signal(signal.{name})", "sys.exit(code)"])
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3


def test_exceptions_become_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: BaseException) -> int:
        def action() -> int:
            raise error

        return guarded(action, "dc-test")

    assert guarded(lambda: 0, "dc-test") == 0
    assert raising(UserError("x=1: must be 2")) == 2
    assert capsys.readouterr().err == "dc-test: error: x=1: must be 2\n"
    assert raising(PermissionError(13, "Permission denied", "/x")) == 2
    assert capsys.readouterr().err == "dc-test: error: /x: Permission denied\n"
    assert raising(OSError(errno.EROFS, "Read-only file system", "/x")) == 2
    assert capsys.readouterr().err == "dc-test: error: /x: Read-only file system\n"
    assert raising(OSError(errno.ENOSPC, "No space left on device")) == 2
    assert capsys.readouterr().err == "dc-test: error: No space left on device\n"
    assert raising(OSError(errno.ENAMETOOLONG, "File name too long", "/x")) == 2
    capsys.readouterr()
    assert raising(MemoryError("no room for 16 GiB")) == 1
    assert capsys.readouterr().err.startswith("dc-test: error: out of memory; lower batch.max_tokens")
    refusal = (
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    )
    assert raising(RuntimeError(refusal)) == 1
    assert capsys.readouterr().err.startswith("dc-test: error: out of memory; lower batch.max_tokens")
    assert raising(FloatingPointError("logits are not finite")) == 1
    assert capsys.readouterr().err == "dc-test: error: logits are not finite\n"
    assert raising(KeyboardInterrupt()) == 128 + signal.SIGINT
    assert "Traceback" not in capsys.readouterr().err
    assert raising(RuntimeError("oh")) == 1
    assert "RuntimeError: oh" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m dynconv_mt.cli train --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", f"sleep 0; {command}"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_output_is_utf8_whatever_the_locale() -> None:
    command = [sys.executable, "-m", "dynconv_mt.cli", "generate", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Σ".encode() in done.stdout


def test_help_and_a_wrong_option_import_nothing_slow() -> None:
    code = """
        import sys
        from dynconv_mt.cli.commands import COMMANDS
        from dynconv_mt.cli.main import run
        code = run(COMMANDS["train"], [sys.argv[1]])
        print([m for m in ("torch", "hydra", "numpy", "sacremoses") if m in sys.modules], code)
    """
    for argument, ending in (("--help", "[] 0"), ("data_dr=x", "[] 2")):
        command = [sys.executable, "-c", textwrap.dedent(code), argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(ending)


def test_composed_options_are_checked_where_none_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["recipe=multi30k", "bpe.vocab_size=100", "--cfg"]
    assert run(COMMANDS["preprocess"], argv) == 0
    assert "vocab_size: 100" in capsys.readouterr().out
    assert run(COMMANDS["preprocess"], [*CORPUS, *argv]) == 2
    output = capsys.readouterr()
    assert "vocab_size: 100" in output.out
    assert "bpe.vocab_size=100: must be at least" in output.err
    argv = ["text.tokenization=none", "text.normalize_punctuation=true", "--cfg"]
    assert run(COMMANDS["preprocess"], [*CORPUS, *argv]) == 2
    assert "text.normalize_punctuation=true: only has an effect" in capsys.readouterr().err
    argv = ["recipe=toy", "data_dir=none", "out_dir=none", "model.encoder.mixer.heads=5", "--cfg"]
    assert run(COMMANDS["train"], argv) == 2
    assert "model.encoder.mixer.heads=5: must" in capsys.readouterr().err


def test_plugins_bring_architectures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_models.py").write_text(
        "from dynconv_mt.models import preset, register_preset\n"
        "register_preset('mine')(lambda: preset('lightconv_tiny'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DYNCONV_MT_PLUGINS", "my_models")
    monkeypatch.setattr("dynconv_mt.models.presets._PRESETS", {**dynconv_mt.models.presets._PRESETS})  # type: ignore[attr-defined]
    assert run(COMMANDS["train"], ["model=mine", "--cfg"]) == 0
    assert "kernel_sizes" in capsys.readouterr().out
    monkeypatch.setenv("DYNCONV_MT_PLUGINS", "my_models,not_there")
    assert run(COMMANDS["train"], ["model=mine", "--cfg"]) == 2
    assert "DYNCONV_MT_PLUGINS=not_there: this plugin cannot be imported" in capsys.readouterr().err
    (tmp_path / "my_script.py").write_text("raise SystemExit(0)\n")
    monkeypatch.setenv("DYNCONV_MT_PLUGINS", "my_script")
    assert run(COMMANDS["train"], ["model=mine", "--cfg"]) == 2
    assert "DYNCONV_MT_PLUGINS=my_script: this plugin cannot be imported" in capsys.readouterr().err


def test_modules_start_the_same_commands() -> None:
    command = [sys.executable, "-m", "dynconv_mt.cli"]
    done = subprocess.run([*command, "info", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"dc-info {dynconv_mt.__version__}\n")
    done = subprocess.run([*command, "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "preprocess,train" in done.stderr


TRAIN = ("data_dir=a", "out_dir=b")
CORPUS = ("src=en", "tgt=de", "train=a", "out_dir=b")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["train", "recipe=multi30k", *TRAIN, "search.beam=3"],
            "search.beam=3: .* validate.bleu=true",
        ),
        (
            ["train", "recipe=wmt14_en_de", *TRAIN, "checkpoint.average=3"],
            "checkpoint.final=average",
        ),
        (["generate", "recipe=multi30k", "model_dir=a", "input=b", "evaluate.metrics=[chrf]"], "with reference="),
        (
            ["convert", "checkpoint=a", "out_dir=b", "text.lowercase=true"],
            "text.lowercase=true: only has an",
        ),
        (
            ["generate", "model_dir=a", "input=b", "reference=c", "evaluate.tokenization=none"],
            "evaluate.tokenization=none: .* evaluate.metrics=",
        ),
        (
            ["preprocess", *CORPUS, "text.tokenization=none", "text.normalize_punctuation=True"],
            "text.normalize_punctuation=true: .* text.tokenization=moses",
        ),
        (
            ["train", "recipe=multi30k", *TRAIN, "schedule.warmup_updates=0", "schedule.warmup_init_lr=1e-4"],
            "schedule.warmup_init_lr=1e-4: .* schedule.warmup_updates above 0",
        ),
        (
            ["train", "recipe=iwslt14_de_en", *TRAIN, "schedule.kind=inverse_sqrt", "schedule.period_updates=100"],
            "schedule.period_updates=100: .* schedule.kind=cosine",
        ),
    ],
)
def test_what_is_typed_without_effect_is_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(COMMANDS[argv[0]], argv[1:]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_what_a_recipe_says_without_effect_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(COMMANDS["generate"], ["recipe=multi30k", f"model_dir={tmp_path}/none", "input=a"]) == 2
    assert "no such folder" in capsys.readouterr().err  # and not that evaluate.* has no effect
    assert run(COMMANDS["train"], ["recipe=multi30k", *TRAIN, "schedule.kind=inverse_sqrt"]) == 2
    assert "data_dir=a: no preprocessed data" in capsys.readouterr().err  # and not that period_updates has none
