"""How many threads work on a small process, and on a large one."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest
import torch
from torch import Tensor

from torchtune_hp.gp import fit as module, threads
from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.threads import SMALL, bounded

from .problems import uniform


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_process_has_one_thread_and_a_large_one_all() -> None:
    for n, expected in [(0, 1), (SMALL - 1, 1), (SMALL, 2)]:
        with bounded(n):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2


def test_what_was_one_thread_stays_one() -> None:
    torch.set_num_threads(1)
    for n in (SMALL - 1, SMALL):
        with bounded(n):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1


def test_the_threads_are_given_back_after_an_error() -> None:
    with pytest.raises(KeyError), bounded(1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_blocks_in_blocks_give_back_what_they_found() -> None:
    with bounded(1):
        with bounded(SMALL):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_thread_that_bounds_itself_takes_nothing_from_another() -> None:
    inside, leave = Event(), Event()

    def work() -> None:
        with bounded(1):
            inside.set()
            leave.wait(60)

    worker = Thread(target=work)
    worker.start()
    assert inside.wait(60)
    during = torch.get_num_threads()
    leave.set()
    worker.join()
    assert (during, torch.get_num_threads()) == (2, 2)


def test_a_fit_is_bounded_by_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    marginal = module.log_marginal

    def watched(kernel: Kernel, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        seen.add((x.shape[-2], torch.get_num_threads()))
        return marginal(kernel, x, *rest)

    monkeypatch.setattr(module, "log_marginal", watched)
    monkeypatch.setattr(threads, "SMALL", 64)
    for n in (10, 64):
        fit(Kernel((0,)), uniform(n, 1), uniform(n, seed=1), restarts=1, steps=1)
    assert seen == {(10, 1), (64, 2)}
