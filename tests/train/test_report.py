"""What is seen of a run while it trains."""

import errno
import io

import pytest

from dynconv_mt.train import report

RECORD = {
    "update": 3,
    "epoch": 0.5,
    "loss": 4.25,
    "ppl": 31.5,
    "lr": 0.0005,
    "grad_norm": 1.125,
    "tokens_per_second": 12345.6,
}
NUMBERS = ("loss 4.250", "ppl 31.50", "lr 0.0005", "|g| 1.125", "12,346 tokens/s", "left 1:01:05")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_all_numbers(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a bar on a terminal, in lines elsewhere."""
    monkeypatch.setattr(report, "is_terminal", lambda: is_terminal)
    monkeypatch.setenv("COLUMNS", "200")
    progress = report.Progress(2, 10)
    progress.tick()
    assert progress.is_due()
    progress.show(RECORD, 3665.0)
    assert not progress.is_due()
    progress.say("a checkpoint was saved")
    progress.close()
    shown = capsys.readouterr().err
    assert all(number in shown for number in NUMBERS), shown
    assert ("3/10" in shown and "30%" in shown) is is_terminal
    assert ("update 3  epoch 0.50" in shown) is not is_terminal
    assert "\na checkpoint was saved\n" in shown.replace("\r", "\n")
    assert ("\r" in shown) is is_terminal


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_that_is_closed_ends_nothing(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "is_terminal", lambda: is_terminal)
    progress = report.Progress(2, 10)
    monkeypatch.setattr("sys.stderr", Gone())
    progress.say("a checkpoint was saved")
    progress.tick()
    progress.show(RECORD, 60.0)
    progress.say("another one was saved")
    progress.close()
