"""What must hold on a GPU as well. Where a CPU can show a law too, it does: a stand-in captures there, so that these tests are sound."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.population import counter
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.graphed import CAPTURES
from torchtune_hp.population.keys import base_of, keys_of
from torchtune_hp.population.randomness import own_randomness
from torchtune_hp.population.sizes import best_size
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial

from .rows import EXTREMES, RULES
from .test_engine import Norm, Scheduled, Toy, same
from .test_graphed import Recorder

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
K = 6


@pytest.fixture(autouse=True)
def _stand_in_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", Recorder)
    monkeypatch.setattr(Recorder, "captured", [])


@pytest.fixture(autouse=True)
def _float32_is_float32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def models(device: str, *layers: Any, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    found: list[nn.Module] = []
    for seed in range(K):
        torch.manual_seed(seed)
        found.append(nn.Sequential(*(layer() for layer in layers)).to(device, dtype))
    return found


def network() -> list[Any]:
    return [lambda: nn.Linear(4, 8), lambda: nn.BatchNorm1d(8), nn.ReLU, lambda: nn.Dropout(0.2), lambda: nn.Linear(8, 3)]


def batch(device: str, step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(K, 10, 4, generator=generator, dtype=dtype), torch.randint(3, (K, 10), generator=generator)
    return x.to(device), y.to(device)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def alike(one: hp.Population, other: hp.Population, rtol: float, atol: float) -> None:
    for mine, its in zip(one.unstack(), other.unstack(), strict=True):
        for (name, tensor), theirs in zip(mine.state_dict().items(), its.state_dict().values(), strict=True):
            torch.testing.assert_close(tensor, theirs, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


# Graphs -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_steps_from_graphs_are_steps_whoever_comes_and_goes(device: str, clip: float | None) -> None:
    """The first layer's bias has no gradient but rounding, before BatchNorm: SGD makes nothing of that, Adam would."""
    pair = []
    for strategy in ("graph", "vmap"):
        made = models(device, *network())
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.01 * (n + 1), momentum=0.9) for n, model in enumerate(made)]
        pair.append(hp.Population(made, optimizers, max_grad_norm=clip, strategy=strategy))  # type: ignore[arg-type]
    for step in range(20):
        if step == 8:
            for population in pair:
                population.take_out(1)
        for population in pair:
            for _, optimizer in population._rows.members:
                optimizer.param_groups[0]["lr"] *= 0.95
        x, y = (part[: len(pair[0])] for part in batch(device, step))
        mine, its = (population.step(loss, (x, y), in_dims=0) for population in pair)
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    alike(*pair, rtol=1e-3, atol=1e-4)
    assert pair[0].reason.endswith("at once, from a graph")


@gpu
def test_a_hook_that_waits_for_the_device_is_trained_all_the_same() -> None:
    def waits(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch) * (1 + float(batch[0].abs().max()))

    pair = []
    for strategy in ("graph", "vmap"):
        made = models("cuda", *network())
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in made]
        pair.append(hp.Population(made, optimizers, strategy=strategy))  # type: ignore[arg-type]
    for step in range(5):
        x, y = (part[0] for part in batch("cuda", step))
        mine, its = (population.step(waits, (x, y)) for population in pair)
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    assert "not from a graph: RuntimeError: called a synchronizing CUDA operation" in pair[0].reason


@gpu
def test_the_memory_of_graphs_is_free_when_nothing_is_replayed_any_more() -> None:
    made = models("cuda", lambda: nn.Linear(4, 200_000), nn.ReLU, lambda: nn.Linear(200_000, 3))
    population = hp.Population(made, [torch.optim.SGD(model.parameters(), lr=0.1) for model in made], strategy="graph")
    for step in range(4):
        population.step(loss, batch("cuda", step), in_dims=0)
    stack: Any = population._rows
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    stack.replay(False)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < before - 4 * sum(flat.numel() for flat in stack.flats)


# The step ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", ["vmap", "graph"])
@pytest.mark.parametrize(("kind", "flags"), EXTREMES)
def test_every_optimizer_is_torch_s(kind: type[torch.optim.Optimizer], flags: dict[str, bool], strategy: Any, device: str) -> None:
    options: dict[str, Any] = {**flags, "foreach": False}
    if "momentum" in RULES[kind].numbers:
        options["momentum"] = 0.9
    pair = []
    for each in (strategy, "loop"):
        made = models(device, lambda: nn.Linear(4, 8), nn.Tanh, lambda: nn.Linear(8, 3), dtype=torch.float64)
        optimizers = [kind(model.parameters(), lr=0.01 * (n + 1), **options) for n, model in enumerate(made)]  # type: ignore[call-arg]
        pair.append(hp.Population(made, optimizers, strategy=each))
    for step in range(6):
        x, y = batch(device, step, torch.float64)
        mine, its = (population.step(loss, (x, y), in_dims=0) for population in pair)
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-9)
    alike(*pair, rtol=1e-7, atol=1e-9)


@gpu
def test_a_step_waits_for_nothing() -> None:
    made = models("cuda", *network())
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.1) for model in made]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]
    population = hp.Population(made, optimizers, max_grad_norm=1.0, strategy="vmap")
    batches = [batch("cuda", step) for step in range(6)]
    for step, each in enumerate(batches):
        if step == 2:       # by then whatever is done for the first time is done
            torch.cuda.set_sync_debug_mode("error")
        try:
            population.step(loss, each, in_dims=0)
            for scheduler in schedulers:
                scheduler.step()
        finally:
            if step == 5:
                torch.cuda.set_sync_debug_mode("default")


def runners(cls: type[hp.ModelTrainable], device: str, configs: list[dict[str, Any]]) -> list[ModelRunner]:
    place = Place(None, device, 9, ("loss",), "toy")
    return [ModelRecipe(cls).start(Trial(k, (), config, seed=50 + k), place) for k, config in enumerate(configs)]


CONFIGS = [{"lr": 0.003 * (1 + k), "p": 0.1 * k, "alpha": 0.1 * k, "steps": 1 + k % 3} for k in range(K)]


class Ada(Toy):
    """Torch makes its state with the optimizer, where the model is before it is moved."""

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(self.model.parameters(), lr=config["lr"], initial_accumulator_value=0.1)


class Normalized(Toy):
    def augment(self, batch: Any) -> Any:
        x, y = batch
        return hp.normalize(x[:, :, None, None], [0.1] * 6, 0.5).flatten(1), y


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", ["vmap", "graph"])
@pytest.mark.parametrize("kind", [Toy, Ada, Norm, Normalized, Scheduled])
def test_members_have_the_curves_that_they_have_alone(kind: Any, strategy: Any, device: str) -> None:
    notes: list[str] = []
    engine, here = Engine(lambda kind, text: notes.append(text), strategy), runners(kind, device, CONFIGS)
    looks = [engine.advance(here) for _ in range(3)]
    right = [[runner.advance() for _ in range(3)] for runner in runners(kind, device, CONFIGS)]
    same([[look[runner] for look in looks] for runner in here], right)
    assert not [text for text in notes if "one by one" in text or "not replayed" in text]


@gpu
def test_an_iteration_of_many_updates_waits_as_often_as_one_of_few() -> None:
    counts = []
    for updates in (4, 12):
        cls = type("Toy", (Scheduled,), {"iteration": updates})
        engine, here = Engine(strategy="vmap"), runners(cls, "cuda", [{"lr": 0.01 * (1 + k), "p": 0.2} for k in range(K)])
        engine.advance(here), engine.advance(here)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                engine.advance(here)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing CUDA operation" in str(each.message) for each in caught))
    assert counts[1] <= counts[0]


# Randomness -------------------------------------------------------------------------------------------------------------------


@gpu
def test_random_numbers_are_the_same_bits_on_both() -> None:
    keys = keys_of([base_of(seed, "train") for seed in range(K)], list(range(K)))

    def drawn(key: Tensor) -> tuple[Tensor, ...]:
        bits, wide = counter.bits(key, 3, (7, 5)), counter.wide_bits(key, 2**33, (9,))
        order, whole = counter.permutation(key, 4, 11), counter.below(key, 5, (9,), 1000)
        return bits, wide, order, whole, *(counter.uniform(key, 6, (9,), dtype) for dtype in counter.DIGITS)

    def dropped(key: Tensor) -> Tensor:
        with own_randomness(key):
            return F.dropout(torch.ones(50, device=key.device), 0.3) * (1 + torch.rand(50, device=key.device))

    for function in (drawn, dropped):
        for one, other in zip(*([*vmap(function)(keys.to(place))] for place in ("cpu", "cuda")), strict=True):
            assert torch.equal(one, other.cpu())


@gpu
def test_other_draws_are_the_same_up_to_rounding() -> None:
    keys = keys_of([base_of(seed, "train") for seed in range(K)], [0] * K)
    for law in (counter.normal, counter.exponential):
        for dtype in (torch.float32, torch.float64):
            one, other = (vmap(partial(law, call=1, shape=(100,), dtype=dtype))(keys.to(place)).cpu() for place in ("cpu", "cuda"))
            torch.testing.assert_close(one, other, rtol=1e-4 if dtype is torch.float32 else 1e-10, atol=1e-5)


# Room -------------------------------------------------------------------------------------------------------------------------


@gpu
@pytest.mark.parametrize("strategy", ["vmap", "graph"])
def test_where_a_gpu_has_no_room_fewer_are_trained_at_once_and_nobody_fails(strategy: Any) -> None:
    """Eight of 16 MB in float64, with states, copies, gradients and activations, want 2 GB; one wants 300 MB."""
    configs = [{"lr": 0.001 * (1 + k), "p": 0.2, "width": 200_000} for k in range(8)]
    notes: list[str] = []
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 700 * 2**20) / total)
    try:
        engine = Engine(lambda kind, text: notes.append(text), strategy)
        here = [engine.begin(lambda k=k, config=config: runners(Toy, "cuda", [config])[0]) for k, config in enumerate(configs)]
        for _ in range(2):
            looks = engine.advance(here)
            assert all(isinstance(look, Look) for look in looks.values()), looks
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("there is no room for 8 at once" in text for text in notes), notes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", ["auto", "graph"])
def test_slots_are_measured(strategy: Any, device: str) -> None:
    (runner,) = runners(Toy, device, [{"lr": 0.01}])
    size = best_size(runner, 16, strategy)
    assert 1 <= size.slots <= 16 and "members updated a second" in size.why


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", ["auto", "graph"])
def test_a_study_runs(strategy: Any, device: str) -> None:
    results = hp.tune(
        Toy, {"lr": hp.loguniform(1e-3, 1e-1), "p": hp.uniform(0, 0.5)}, metric="loss", mode="min", trials=12, storage=None, verbose=0,
        scheduler=hp.ASHA(max_t=6), searcher=hp.RandomSearch(), executor=hp.Fused(8, devices=device, strategy=strategy),
    )  # fmt: skip
    assert len(results) == 12 and not results.errors
