"""Dead ranks: the others end, soon and with a message."""

from __future__ import annotations

import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]
from train.launch import Launch
from train.runs import NewJob, NewModel

from dynconv_mt.train import FitData, heartbeat
from dynconv_mt.train.distributed import Ranks, own_part
from dynconv_mt.train.heartbeat import Heartbeat
from dynconv_mt.train.interrupt import Interrupt, interrupts

LIMIT = 12.0  # seconds
EXTRA = f"heartbeat.LIMIT = {LIMIT}\nat_update(8, lambda: (reached('there'), time.sleep(3.0)))"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_rank_ends_the_job(
    data: FitData, new_model: NewModel, new_job: NewJob, number: signal.Signals, victim: int
) -> None:
    """Also the rank that keeps the store, and also where nobody (no torchrun) looks after the processes."""
    launch = Launch(new_job(), new_model(), data, EXTRA)
    processes = launch.start(ranks=2)
    try:
        launch.wait_for("there", ranks=2)
        killed = time.monotonic()
        processes[victim].send_signal(number)
        survivor = processes[1 - victim]
        said = survivor.communicate(timeout=60.0)[1]
        assert survivor.returncode == 1, said
        assert time.monotonic() - killed < 60.0
        assert "Traceback" not in said and "bug" not in said
        assert f"rank {1 - victim}: " in said and "the same command goes on" in said
        if number == signal.SIGSTOP:
            assert f"no sign of life from rank {victim} for" in said
    finally:
        launch.kill()


def test_a_new_start_does_not_listen_to_the_dead() -> None:
    """Three times three ranks meet in one store that nobody clears; each time they find a part of it to themselves."""
    store = HashStore()
    for life in range(3):
        parts: dict[int, Any] = {}

        def meet(rank: int, parts: dict[int, Any] = parts) -> None:
            time.sleep(0.05 * rank)  # rank 0 finds what the dead have left
            parts[rank] = own_part(store, Ranks(rank, 3))

        threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        parts[0].set("life", str(life))
        assert [parts[rank].get("life") for rank in (1, 2)] == [str(life).encode()] * 2


class Store:
    """Stands for the shared store: what each rank has said."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.values[key] for key in keys]


def pair(interrupt: Interrupt) -> tuple[Heartbeat, Heartbeat]:
    store = Store()
    first, second = Heartbeat(store, 0, 2, interrupt), Heartbeat(store, 1, 2, Interrupt())  # type: ignore[arg-type]
    return first, second


def test_silence_is_measured_from_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first, second = pair(Interrupt())
    first.limit = 1.0
    second._say(1)
    first._hear(first.store.multi_get(["alive/1"]))
    assert first.silent() == []
    now[0] = 1.5
    first._hear(first.store.multi_get(["alive/1"]))  # the same word is none
    assert first.silent() == [1]
    second._say(2)
    first._hear(first.store.multi_get(["alive/1"]))
    assert first.silent() == []


def test_rank_0_hears_of_the_signal_of_another() -> None:
    with interrupts() as interrupt:
        first, second = pair(interrupt)
        second.interrupt.receive(signal.SIGUSR1)
        second._say(1)
        first._hear(first.store.multi_get(["alive/1"]))
        assert interrupt.name == "SIGUSR1"


def test_giving_up_names_the_silent(capfd: pytest.CaptureFixture[str]) -> None:
    left: list[int] = []
    first, _ = pair(Interrupt())
    first._give_up([1, 3], left.append)
    assert left == [1]
    assert "rank 0: error: no sign of life from ranks 1, 3 for 30 seconds" in capfd.readouterr().err
