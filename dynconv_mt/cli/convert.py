"""`dc-convert`: a fairseq checkpoint as a model directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dynconv_mt.cli.jobs import ConvertJob
from dynconv_mt.convert import Checkpoint, convert_model, load_checkpoint
from dynconv_mt.convert.text import TextFiles, guess_languages, has_capitals, read_text
from dynconv_mt.data.output import build_folder
from dynconv_mt.errors import UserError
from dynconv_mt.files import hash_file
from dynconv_mt.models import build_model, save_model
from dynconv_mt.models.config import ModelConfig
from dynconv_mt.text.config import Tokenization
from dynconv_mt.text.pipeline import TextPipeline


def run(job: ConvertJob) -> int:
    """Convert, write, and say what the result can be used for."""
    path = Path(job.checkpoint)
    try:
        checkpoint = load_checkpoint(path)
        config, weights = convert_model(checkpoint.args, checkpoint.state_dict)
    except UserError as error:
        raise UserError(
            f"checkpoint={path}: {str(error).removeprefix(f'{path}: ').removeprefix('checkpoint: ')}"
        ) from None
    text = None if job.dict is None else _read_text(job, checkpoint, config)
    model = build_model(config)
    model.load_state_dict(weights, strict=True)
    out, provenance = Path(job.out_dir), _provenance(path, checkpoint)
    with build_folder(out, replace=job.overwrite) as partial:
        save_model(partial, model, text, provenance)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {count:,} parameters; {_use(job, config, text)}")
    return 0


def _read_text(job: ConvertJob, checkpoint: Checkpoint, config: ModelConfig) -> TextPipeline:
    """The text pipeline of the dictionaries and merges."""
    assert job.dict is not None
    if config.is_language_model:
        raise UserError(
            f"dict={job.dict}: the checkpoint holds a language model, which has no text pipeline; leave it out"
        )
    if not Path(job.dict).is_dir():
        raise UserError(f"dict={job.dict}: no such folder; it should hold dict.SRC.txt and dict.TGT.txt")
    src, tgt = _languages(job, checkpoint, config)
    if src == tgt:
        raise UserError(f"dict={job.dict}: {src} on both sides; give src= and tgt=, which must differ")
    codes = None if job.bpe_codes is None else Path(job.bpe_codes)
    text = read_text(TextFiles(Path(job.dict), codes, src, tgt), job.text, config)
    if not job.text.lowercase and not has_capitals(text):
        print(
            "dc-convert: warning: no piece contains a capital letter; was the model trained on lower-cased text "
            "(text.lowercase=true)?",
            file=sys.stderr,
        )
    return text


def _languages(job: ConvertJob, checkpoint: Checkpoint, config: ModelConfig) -> tuple[str, str]:
    """The languages: what was typed, else what the checkpoint says, else what the dictionaries are called."""
    assert job.dict is not None
    src, tgt = job.src or checkpoint.src, job.tgt or checkpoint.tgt
    if src is not None and tgt is not None:
        return src, tgt
    guess = guess_languages(Path(job.dict), config)
    if src is not None or tgt is not None or guess is None:
        raise UserError(
            f"dict={job.dict}: the checkpoint does not say its languages; give src= and tgt=, such as en, de"
        )
    print(
        f"dc-convert: warning: language pair {'-'.join(guess)} inferred from the dictionaries; src= and tgt= "
        "set another",
        file=sys.stderr,
    )
    return guess


def _provenance(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    architecture = checkpoint.args.get("arch") or checkpoint.args.get("_name")
    found = {"converted_from": "fairseq", "file": path.name, "sha256": hash_file(path), "architecture": architecture}
    return {**found, "updates": checkpoint.num_updates}


def _use(job: ConvertJob, config: ModelConfig, text: TextPipeline | None) -> str:
    if config.is_language_model:
        return "a language model, for use from Python"
    if text is None:
        return "no text pipeline (that takes dict=), so it reads ids only and dc-generate cannot use it"
    if text.config.tokenization is Tokenization.moses:
        lines = "text"
    else:
        lines = "tokens separated by blanks" if job.bpe_codes else "text in pieces"
    return f"reads and writes {lines}, {text.src}-{text.tgt}: dc-generate model_dir={job.out_dir} input=FILE"
