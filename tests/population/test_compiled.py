"""The compiled step is the step: losses, weights, buffers and optimizer states, for any number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import torchtune_hp as hp
from torchtune_hp.errors import DivergedError
from torchtune_hp.population import compiled
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.program import CompilerFailed
from torchtune_hp.population.stack import Stack
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial

K = 9       # compiled for 16 rows, 7 of them spare


def members(k: int = K) -> tuple[list[nn.Module], list[torch.optim.Optimizer]]:
    models: list[nn.Module] = []
    for seed in range(k):
        torch.manual_seed(seed)
        body = nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1 + 0.02 * seed)
        models.append(nn.Sequential(*body, nn.Linear(8, 3)))
    return models, [torch.optim.AdamW(model.parameters(), lr=0.01 * (n + 1), weight_decay=0.1) for n, model in enumerate(models)]


def data(k: int = K) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(k, 6, 4, generator=generator), torch.randint(3, (k, 6), generator=generator)


def loss(model: Any, batch: Any) -> Any:
    found = F.cross_entropy(model(batch[0]), batch[1])
    return found, {"twice": 2 * found}


@pytest.fixture(autouse=True, scope="module")
def _each_graph_is_compiled_once() -> Iterator[None]:
    """In the whole file: what runs is compiled all the same, and most of the tests' stacks have the graphs of another's."""
    torch._dynamo.reset()
    known: dict[Any, Any] = {}
    compile_anew = torch.compile

    def compile_once(forward: Any, **how: Any) -> Any:
        graph = forward.__self__
        constants = [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
        given = [node.meta.get("tensor_meta") for node in graph.graph.nodes if node.op == "placeholder"]
        key = graph.code, str(how), str([(held.dtype, held.tolist()) for held in constants]), str(given)
        if key not in known:
            known[key] = compile_anew(forward, **how)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compile_once)
        yield


def test_tensors_that_were_one_and_the_same_may_become_two() -> None:
    """An autoencoder's batch, and then one that is to be cleaned of noise; and the other way round."""
    def restored(model: Any, batch: Any) -> Any:
        return F.mse_loss(model(batch[0]), batch[1])

    def squares(k: int) -> tuple[list[nn.Module], list[torch.optim.Optimizer]]:
        models: list[nn.Module] = [nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 4)) for _ in range(k)]
        return models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]

    x, y = torch.randn(6, 4), torch.randn(6, 4)
    for batches in ([(x, x), (x, y), (y, y)], [(x, y), (y, y), (y, x)]):
        torch.manual_seed(0)
        one = hp.Population(*squares(8), strategy="compile")
        torch.manual_seed(0)
        other = hp.Population(*squares(8), strategy="vmap")
        for batch in batches:
            torch.testing.assert_close(one.step(restored, batch), other.step(restored, batch), rtol=1e-4, atol=1e-5)


def test_an_input_may_lie_in_another_order() -> None:
    """The same shape with other strides is another form."""
    one, other = (hp.Population(*members(8), strategy=strategy) for strategy in ("compile", "vmap"))
    x, y = data(8)
    for lying in (x, x.transpose(1, 2).contiguous().transpose(1, 2), x):
        torch.testing.assert_close(one.step(loss, (lying, y), in_dims=0), other.step(loss, (lying, y), in_dims=0), rtol=1e-4, atol=1e-5)


def test_the_compiled_step_is_the_step() -> None:
    """Slow: the first to compile imports the compiler."""
    one, other = (hp.Population(*members(), max_grad_norm=0.5, strategy=strategy) for strategy in ("compile", "vmap"))
    assert one.reason == "9 at once, compiled"
    for step in range(4):
        if step == 2:
            for population in (one, other):
                population.take_out(1)
        x, y = data(len(one))
        torch.testing.assert_close(one.step(loss, (x, y), in_dims=0), other.step(loss, (x, y), in_dims=0), rtol=1e-4, atol=1e-5)
    for mine, its in zip(one.unstack(), other.unstack(), strict=True):
        for (name, tensor), theirs in zip(mine.state_dict().items(), its.state_dict().values()):
            torch.testing.assert_close(tensor, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_the_error_of_a_hook_is_its_own_and_changes_nothing() -> None:
    population = hp.Population(*members(), strategy="compile")

    def wrong(model: nn.Module, batch: Any) -> Tensor:
        model(batch[0])
        raise KeyError("the hook's own")

    with pytest.raises(KeyError, match="the hook's own"):
        population.step(wrong, data(), in_dims=0)
    assert all(model[1].num_batches_tracked == 0 for model in population.unstack())  # type: ignore[index]


def test_few_rows_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compiled", None)
    stack = Stack(list(zip(*members(compiled.LEAST - 1))), compiled=True)
    monkeypatch.setattr(stack, "_step", stack._updated)
    stack.step(loss, data(len(stack)), 0, torch.arange(len(stack)))


def test_functions_that_never_come_again_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compiled", lambda traced, given: traced)
    stack = Stack(list(zip(*members())), compiled=True)
    for number in range(compiled.FORMS + 1):
        numbered = torch.tensor(float(number))

        def captured(model: Any, batch: Any, numbered: Tensor = numbered) -> Tensor:
            return model(batch[0]).sum() * numbered

        if number == compiled.FORMS:
            with pytest.raises(compiled.TooManyForms, match="must keep its form, but this would be number 17"):
                stack.gradients(captured, data(), 0, torch.arange(K))
        else:
            with torch.enable_grad():
                monkeypatch.setattr(compiled, "_run", lambda function, given, device: function(*given))
                stack.gradients(captured, data(), 0, torch.arange(K))


def test_a_compiler_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **keywords: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", lambda graph, **how: fails)
    with pytest.raises(CompilerFailed, match=r"torch.compile failed \(RuntimeError: no compiler here\)"):
        Stack(list(zip(*members())), compiled=True).gradients(loss, data(), 0, torch.arange(K))


class Digits(hp.ModelTrainable):


    def setup(self, config: Any) -> None:
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        x, y = (part.flatten(0, 1) for part in data(8))
        return hp.Data(train=(x, y), val=(x, y), batch_size=16)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1]) * self.hparams["scale"]

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1])}


def study(strategy: Any) -> hp.Results:
    space = {"lr": hp.loguniform(1e-3, 1e-1), "scale": hp.uniform(0.5, 2.0)}
    return hp.tune(
        Digits, space, metric="loss", mode="min", trials=10, stop=hp.MaxSteps(3), searcher=hp.RandomSearch(), storage=None, verbose=0,
        executor=hp.Fused(10, strategy=strategy),
    )  # fmt: skip


def test_a_study_is_compiled() -> None:
    """Slow: it compiles."""
    one, other = study("compile"), study("vmap")
    for mine, its in zip(one, other, strict=True):
        assert mine.config == its.config
        assert mine.metrics["loss"] == pytest.approx(its.metrics["loss"], rel=1e-4)


def test_where_the_compiler_fails_a_study_goes_on_and_its_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, *args: Any) -> Any:
        raise CompilerFailed("torch.compile failed (RuntimeError: no compiler here)")

    monkeypatch.setattr(compiled.CompiledGradients, "__call__", fails)
    one, other = study("compile"), study("vmap")
    assert [mine.metrics["loss"] for mine in one] == [its.metrics["loss"] for its in other]
    assert [note.text for note in one.log if "compile" in note.text] == [
        "Digits: stacks are not compiled: torch.compile failed (RuntimeError: no compiler here)."
    ]




# What is ill is its own, compiled as well -------------------------------------------------------------------------------------


def trained(ill: int | None, clip: float | None) -> tuple[Tensor, list[list[Tensor]]]:
    """Losses (3, k) and tensors of members of which `ill` has a weight of NaN."""
    models, optimizers = members()
    if ill is not None:
        with torch.no_grad():
            models[ill][0].weight.fill_(float("nan"))  # type: ignore[index,operator,union-attr]
    population = hp.Population(models, optimizers, max_grad_norm=clip, strategy="compile")
    losses = torch.stack([population.step(loss, data(), in_dims=0) for _ in range(3)])
    pairs = zip(population.unstack(), optimizers)
    return losses, [[*model.state_dict().values(), *tree_leaves(optimizer.state_dict())] for model, optimizer in pairs]


@pytest.mark.parametrize("ill", [0, 3], ids=["the first, whom spare rows repeat", "another"])
@pytest.mark.parametrize("clip", [None, 0.5], ids=["unclipped", "clipped"])
def test_nan_in_one_member_reaches_no_bit_of_another(ill: int, clip: float | None) -> None:
    (losses, well), (wrong, sick) = trained(None, clip), trained(ill, clip)
    assert wrong[:, ill].isnan().all()
    for place in set(range(K)) - {ill}:
        assert torch.equal(losses[:, place], wrong[:, place])
        for one, other in zip(well[place], sick[place], strict=True):
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


class Ill(Digits):
    """`ill` is the update from which its loss is NaN."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.model.register_buffer("updates", torch.zeros(()))

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        model.updates += 1  # type: ignore[operator]
        found: Tensor = super().training_step(model, batch)
        return found * torch.where(model.updates > self.hparams["at"], float("nan"), 1.0)  # type: ignore[operator]


def curves(at: float) -> list[list[Any]]:
    configs = [{"lr": 0.01 * (1 + k), "scale": 1.0, "at": at if k == 3 else 999.0} for k in range(K)]
    recipe, place = ModelRecipe(Ill), Place(None, "cpu", 9, ("loss",), "toy")
    runners = [recipe.start(Trial(k, (), config, seed=k), place) for k, config in enumerate(configs)]
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "compile")
    answers = [engine.advance(runners) for _ in range(2)]
    assert [text for text in said if "begins with" not in text] == [] and engine.stacks() == [K]
    return [[answer[runner] for answer in answers] for runner in runners]


def test_a_trial_that_diverges_in_a_compiled_stack_ends_by_itself() -> None:
    """Slow: it compiles."""
    well, ill = curves(999.0), curves(1.0)
    assert isinstance(ill[3][0], DivergedError)
    assert [ill[k] for k in range(K) if k != 3] == [well[k] for k in range(K) if k != 3]
