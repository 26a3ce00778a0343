"""The commands: what each is for, its job, and the module whose `run(job)` does it."""

from __future__ import annotations

from dataclasses import dataclass

from dynconv_mt.cli import jobs


@dataclass(frozen=True)
class Command:
    """One command."""

    section: str  # train: its section in a recipe, its module in this package, its file in configs/
    job: type
    examples: tuple[str, ...]
    has_recipe: bool = False

    @property
    def name(self) -> str:
        """How it is typed."""
        return f"dc-{self.section}"

    @property
    def has_model(self) -> bool:
        """Whether `model=NAME` chooses an architecture."""
        return "model" in self.job.__dataclass_fields__  # type: ignore[attr-defined]


_ALL = (
    Command(
        "preprocess",
        jobs.PreprocessJob,
        (
            "dc-preprocess src=en tgt=de train=corpus/train valid=corpus/valid test=corpus/test out_dir=DATA",
            "dc-preprocess recipe=multi30k train=[a/train,b/train] valid=a/val out_dir=DATA bpe.vocab_size=6000",
            "dc-preprocess src=en tgt=de train=mine/train valid=mine/valid text_from=RUN out_dir=MINE",
        ),
        has_recipe=True,
    ),
    Command(
        "train",
        jobs.TrainJob,
        (
            "dc-train recipe=multi30k data_dir=DATA out_dir=RUN",
            "dc-train data_dir=DATA out_dir=RUN model=dynamicconv_tiny train.max_minutes=60",
            "dc-train init_from=RUN data_dir=MINE out_dir=TUNED optim.lr=1e-4 train.max_epochs=5",
            "dc-train ... model=lightconv_tiny model.encoder.mixer.kernel_sizes=[3,3,7,7] model.dropout=0.2",
        ),
        has_recipe=True,
    ),
    Command(
        "generate",
        jobs.GenerateJob,
        (
            "dc-generate model_dir=RUN input=FILE output=FILE reference=FILE search.beam=5",
            "dc-generate model_dir=RUN data_dir=DATA split=test output=FILE",
            "dc-generate model_dir=[RUN1,RUN2] input=- < FILE",
        ),
        has_recipe=True,
    ),
    Command("interactive", jobs.InteractiveJob, ("echo 'A dog runs.' | dc-interactive model_dir=RUN",)),
    Command(
        "average",
        jobs.AverageJob,
        (
            "dc-average inputs=RUN last=5 out_dir=MODEL",
            "dc-average inputs=[RUN/checkpoints/step_00001000,RUN/checkpoints/step_00002000] out_dir=MODEL",
        ),
    ),
    Command("info", jobs.InfoJob, ("dc-info model_dir=RUN",)),
    Command(
        "convert",
        jobs.ConvertJob,
        (
            "dc-convert checkpoint=checkpoint_best.pt dict=data-bin/wmt16 bpe_codes=bpecodes out_dir=MODEL",
            "dc-convert checkpoint=lm.pt out_dir=MODEL",
        ),
    ),
    Command("score", jobs.ScoreJob, ("dc-score model_dir=MODEL src=test.en tgt=test.de output=scores.jsonl",)),
    Command(
        "evaluate",
        jobs.EvaluateJob,
        (
            "dc-evaluate hypotheses=a.de reference=test.de",
            "dc-evaluate hypotheses=[a.de,b.de] reference=[one.de,two.de] source=test.en output=scores.json plot=s.png",
            "dc-evaluate hypotheses=a.de reference=test.de metrics=[sacrebleu,compound_split_bleu] train=train.de",
        ),
    ),
)

COMMANDS: dict[str, Command] = {command.section: command for command in _ALL}
