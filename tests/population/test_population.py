"""hp.Population as anyone uses it: in a loop of one's own, without a study."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.population.population import Population

from .rows import EXTREMES, Run

X, Y = torch.randn(32, 5, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def mlp(seed: int, p: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(p), nn.Linear(8, 3)).double()


def adam(model: nn.Module, place: int = 0, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01 * (1 + place), weight_decay=0.1 * place, **options)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0].double()), batch[1])


def logits(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0].double())


def population(k: int = 4, **options: Any) -> Population:
    models = [mlp(place, 0.1 * (1 + place)) for place in range(k)]
    return Population(models, [adam(model, place) for place, model in enumerate(models)], **options)


def run(found: Population, steps: int) -> Tensor:
    return torch.stack([found.step(loss_fn, (X, Y)) for _ in range(steps)])


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_at_once_and_one_by_one_are_the_same() -> None:
    fused, alone = population(strategy="vmap"), population(strategy="loop")
    assert repr(fused) == "Population(4 members; 4 at once)"
    assert fused.reason == "4 at once" and alone.reason == "one by one, as asked for"
    close(run(fused, 8), run(alone, 8))
    close(fused.evaluate(logits, (X, Y)), alone.evaluate(logits, (X, Y)))


def test_unstacked_models_and_optimizers_go_on_alone_with_the_same_numbers() -> None:
    fused, alone = population(strategy="vmap"), population(strategy="loop")
    run(fused, 5), run(alone, 5)
    fused.unstack()
    for (model, optimizer), (other, its) in zip(fused._rows.members, alone._rows.members):
        assert optimizer.state_dict()["param_groups"] == its.state_dict()["param_groups"]
        for one, two in ((model, optimizer), (other, its)):
            one.train()
            for module in one.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            for _ in range(3):
                two.zero_grad()
                loss_fn(one, (X, Y)).backward()
                two.step()
        close(model.state_dict(), other.state_dict())
        loaded = adam(model)
        loaded.load_state_dict(optimizer.state_dict())


def test_a_member_s_numbers_do_not_depend_on_its_place_or_on_the_others() -> None:
    """Slot 0 of 1 and slot 3 of 5, joined at the start or when others had gone ahead: the same curve."""
    seeds = [31, 32, 33, 34, 35]
    five = [mlp(place) for place in range(5)]
    alone = copy.deepcopy(five[3])
    together = run(Population(five, [adam(m, p) for p, m in enumerate(five)], seeds=seeds, strategy="vmap"), 6)[:, 3]
    single = run(Population([alone], [adam(alone, 3)], seeds=[34], strategy="vmap"), 6)[:, 0]
    close(together, single)
    ahead, late = population(3, strategy="vmap"), mlp(3)
    run(ahead, 4)
    place = ahead.add(late, adam(late, 3), seed=34)
    close(run(ahead, 6)[:, place], single)


def test_the_same_again_is_the_same_in_every_bit() -> None:
    assert torch.equal(run(population(strategy="vmap"), 6), run(population(strategy="vmap"), 6))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_nan_in_one_member_leaves_the_others_bits_alone(clip: float | None) -> None:
    def poisoned(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return loss_fn(model, batch[:2]) * batch[2]

    def trained(factor: float) -> tuple[Tensor, Population]:
        found = population(strategy="vmap", max_grad_norm=clip)
        losses = []
        for step in range(6):
            factors = torch.ones(4, dtype=torch.float64)
            factors[2] = factor if step == 2 else 1.0
            batch = (X.expand(4, -1, -1), Y.expand(4, -1), factors)
            losses.append(found.step(poisoned, batch, in_dims=0))
        return torch.stack(losses), found

    (well, healthy), (ill, sick) = trained(1.0), trained(float("nan"))
    others = [0, 1, 3]
    assert ill[3:, 2].isnan().all() and torch.equal(well[:, others], ill[:, others])
    for place, (one, two) in enumerate(zip(healthy.unstack(), sick.unstack())):
        same = all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
        assert same == (place != 2)


def test_members_leave_join_and_are_copied_while_it_lives() -> None:
    def played(strategy: Any) -> list[Tensor]:
        found = population(strategy=strategy)
        losses = [*run(found, 3)]
        (gone,) = found.take_out(1)
        assert len(found) == 3 and isinstance(gone, nn.Module)
        losses += [*run(found, 2), gone.eval()(X.double()).detach()]
        late = mlp(9)
        assert found.add(late, adam(late, 2)) == 3
        losses += run(found, 2)
        found.copy(0, 2)
        losses += run(found, 2)
        found.take_out(0, 3)
        return [*losses, *run(found, 2)]

    close(played("vmap"), played("loop"))


class Centered(nn.Module):
    """What it subtracts is a buffer that no `state_dict` has."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = mlp(seed)
        self.register_buffer("mean", torch.zeros(5, dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.5).add_(x.mean(0) * self.net[0].weight.detach().sum())  # type: ignore[index]
        return self.net(x - self.mean)  # type: ignore[no-any-return]


@pytest.mark.parametrize("source", [0, 1], ids=["without momentum", "with"])
def test_a_copy_is_all_that_a_member_has_and_goes_on_alone_too(source: int) -> None:
    """RMSprop's momentum is the target's own, and wants a buffer that a source without any has not."""

    def played(strategy: Any, leaves: bool) -> list[Any]:
        models = [Centered(place) for place in range(3)]
        optimizers = [torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5 * place) for place, model in enumerate(models)]
        found = Population(models, optimizers, strategy=strategy)
        run(found, 2)
        found.copy(source, 1 - source)
        if leaves:
            found.unstack(), found.reload()
        losses = run(found, 3)
        found.copy(source, 1 - source)
        for model, optimizer in zip(found.unstack(), optimizers):
            optimizer.zero_grad()
            loss_fn(model.eval(), (X, Y)).backward()
            optimizer.step()
        return [losses, [{**dict(model.named_buffers()), **dict(model.named_parameters())} for model in models]]

    right = played("loop", False)
    for strategy in ("vmap", "loop"):
        close(played(strategy, False), right)
        close(played(strategy, True), right)


def test_schedulers_that_drive_the_optimizers_work_as_ever() -> None:
    def played(strategy: Any) -> Tensor:
        found = population(strategy=strategy)
        schedulers = [
            torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05 * (1 + place), total_steps=10)
            for place, (_, optimizer) in enumerate(found._rows.members)
        ]
        losses = []
        for _ in range(8):
            losses.append(found.step(loss_fn, (X, Y)))
            for scheduler in schedulers:
                scheduler.step()
        return torch.stack(losses)

    close(played("vmap"), played("loop"))


def test_clipping_is_each_member_s_own() -> None:
    norms = [0.01, 0.1, 1.0, float("inf")]
    close(run(population(strategy="vmap", max_grad_norm=norms), 6), run(population(strategy="loop", max_grad_norm=norms), 6))


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_who_is_not_clipped_may_have_a_gradient_of_any_norm_beside_those_that_are(strategy: Any) -> None:
    """The sum of their squares overflows, and inf / inf is NaN."""
    models = [nn.Linear(2, 1, bias=False).double() for _ in range(4)]
    before = [model.weight.detach().clone() for model in models]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    found = Population(models, optimizers, max_grad_norm=[1.0, float("inf"), float("inf"), 1.0], strategy=strategy)
    slopes = torch.tensor([[3.0, 4.0], [3.0, 1e200], [-1e200, 1e200], [3.0, 4.0]], dtype=torch.float64)
    found.step(lambda model, slope: (model.weight * slope).sum(), slopes, in_dims=0)
    moved = torch.cat([model.weight.detach() - old for model, old in zip(found.unstack(), before)])  # type: ignore[operator]
    right = torch.tensor([[-0.06, -0.08], [-0.3, -1e199], [1e199, -1e199], [-0.06, -0.08]], dtype=torch.float64)
    torch.testing.assert_close(moved, right, rtol=1e-5, atol=1e-9)


def test_after_a_change_from_outside_it_is_read_again() -> None:
    fused, alone = population(strategy="vmap"), population(strategy="loop")
    for found in (fused, alone):
        run(found, 2)
        models = found.unstack()
        with torch.no_grad():
            models[1][0].weight.mul_(0.5)
        found.reload()
    close(run(fused, 3), run(alone, 3))


class Warm(nn.Module):
    """With a temperature that is an attribute, and layers of which the first may be frozen."""

    def __init__(self, seed: int, frozen: bool) -> None:
        super().__init__()
        self.net, self.tau = mlp(seed), 1.0
        self.net[0].requires_grad_(not frozen)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.tau  # type: ignore[no-any-return]


def unfrozen(model: Any, optimizer: Any) -> None:
    model.net[0].requires_grad_(True)


def froze(model: Any, optimizer: Any) -> None:
    model.net[1].requires_grad_(False)


def grouped(model: Any, optimizer: Any) -> None:
    optimizer.add_param_group({"params": list(model.net[0].parameters()), "lr": 0.05})
    model.net[0].requires_grad_(True)


def flipped(model: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["maximize"] = True


def cooled(model: Any, optimizer: Any) -> None:
    model.tau *= 0.5


@pytest.mark.parametrize("change", [unfrozen, froze, grouped, flipped, cooled])
def test_whatever_was_changed_from_outside_is_read_again(change: Any) -> None:
    def played(strategy: Any, whom: slice) -> tuple[Population, list[Any]]:
        models = [Warm(place, frozen=change is not froze) for place in range(4)]
        trained = [model.net[1:] if change is grouped else model for model in models]  # type: ignore[index]
        kind = torch.optim.SGD if change is unfrozen else torch.optim.AdamW     # which counts steps, the same for all of a group
        found = Population(models, [kind(part.parameters(), lr=0.01) for part in trained], strategy=strategy)
        losses = [run(found, 2)]
        found.unstack()
        for member in found._rows.members[whom]:
            change(*member)
        found.reload()
        return found, [losses, run(found, 3), [model.state_dict() for model in found.unstack()]]

    (fused, one), (_, other) = played("vmap", slice(None)), played("loop", slice(None))
    close(one, other)
    assert fused.reason == "4 at once"
    (fused, one), (_, other) = played("auto", slice(3, 4)), played("loop", slice(3, 4))
    close(one, other)
    assert fused.reason.startswith("one by one: member 3 and the first now differ in ")
    with pytest.raises(ConfigurationError, match='strategy="vmap" cannot be kept: member 3 and the first now differ in '):
        played("vmap", slice(3, 4))


def test_what_two_would_train_after_it_was_unfrozen_is_refused() -> None:
    body = nn.Linear(4, 4).requires_grad_(False)
    found = Population(*over(body))
    body.requires_grad_(True)
    with pytest.raises(ConfigurationError, match=r"0.weight of member 1 is also member 0's"):
        found.reload()


def test_few_are_trained_one_by_one_and_more_at_once() -> None:
    found = population(2)
    assert found.reason == "one by one: 2 gain nothing from a stack"
    run(found, 2)
    late = mlp(5)
    found.add(late, adam(late))
    assert found.reason == "3 at once"
    models = [Warm(place, frozen=False) for place in range(3)]
    found = Population(models[:2], [adam(model) for model in models[:2]])
    models[1].tau = 0.5
    found.add(models[2], adam(models[2]))
    assert found.reason == "one by one: member 1 and the first now differ in tau: 1.0 and 0.5"
    other = population(3, strategy="loop")
    assert len(run(found, 2)[0]) == len(run(other, 1)[0]) == 3


def test_what_has_no_rule_is_trained_one_by_one_and_says_why() -> None:
    models = [mlp(place) for place in range(3)]
    found = Population(models, [torch.optim.Rprop(model.parameters()) for model in models])
    assert found.reason.startswith("one by one: ") and "Rprop" in found.reason
    assert run(found, 2).isfinite().all()
    with pytest.raises(ConfigurationError, match=r'strategy="vmap" cannot be kept: .*Rprop'):
        Population(models, [torch.optim.Rprop(model.parameters()) for model in models], strategy="vmap")


HOOKS: dict[str, Any] = {
    "after": lambda module: module.register_full_backward_hook(lambda module, into, out: (into[0] * 0.1,)),
    "before": lambda module: module.register_full_backward_pre_hook(lambda module, out: (out[0] * 0.1,)),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_modules_with_backward_hooks_are_trained_one_by_one_for_there_these_run(hook: str) -> None:
    def played(strategy: Any, hooked: bool = True) -> list[Tensor]:
        models = [mlp(place) for place in range(3)]
        if hooked:
            for model in models:
                HOOKS[hook](model[2])  # type: ignore[index]
        found = Population(models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models], strategy=strategy)
        assert strategy != "auto" or found.reason == "one by one: 2 (ReLU) has a backward hook, which would not run"
        run(found, 2)
        return [parameter.detach() for model in found.unstack() for parameter in model.parameters()]

    close(played("auto"), played("loop"))
    assert not all(map(torch.equal, played("loop"), played("loop", hooked=False)))
    with pytest.raises(ConfigurationError, match='strategy="vmap" cannot be kept: 2 .ReLU. has a backward hook'):
        played("vmap")


def test_extra_parameters_that_no_optimizer_trains_stay_as_they_are() -> None:
    models = [mlp(place) for place in range(3)]
    before = [model[0].weight.clone() for model in models]
    found = Population(models, [torch.optim.SGD(model[4].parameters(), lr=0.1) for model in models], strategy="vmap")
    run(found, 3)
    assert all(torch.equal(model[0].weight, old) for model, old in zip(found.unstack(), before))


@pytest.mark.parametrize("differ", [True, False])
def test_one_with_frozen_parameters_joins_others_whether_theirs_differ_or_not(differ: bool) -> None:
    def played(strategy: Any) -> list[Tensor]:
        def frozen(seed: int) -> nn.Module:
            model = mlp(seed)
            model[0].requires_grad_(False)  # type: ignore[index]
            if not differ:
                model[0].load_state_dict(mlp(0)[0].state_dict())  # type: ignore[index]
            return model

        models = [frozen(place) for place in range(3)]
        found = Population(models, [adam(model, place) for place, model in enumerate(models)], strategy=strategy)
        losses = [*run(found, 1)]
        for seed in (7, 0):
            late = frozen(seed)
            found.add(late, adam(late))
            losses += run(found, 1)
        other = mlp(8)      # frozen, and other than those before it
        other[0].requires_grad_(False)  # type: ignore[index]
        found.add(other, adam(other))
        assert strategy == "loop" or found.reason.endswith("at once")
        return [*losses, *run(found, 2)]

    close(played("vmap"), played("loop"))


def added() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = mlp(9)
    return model, adam(model)


WRONG: dict[str, tuple[Any, str]] = {
    "none": (lambda: Population([], []), "at least one model is needed"),
    "counts": (lambda: Population([mlp(0)], []), "got 1 models and 0 optimizers"),
    "no module": (lambda: Population([abs], [adam(mlp(0))]), "models must be of torch.nn.modules.module.Module, but one is a builtin"),  # type: ignore[list-item]
    "no optimizer": (lambda: Population([mlp(0)], [1]), "optimizers must be of torch.optim.optimizer.Optimizer, but one is a int"),  # type: ignore[list-item]
    "another's": (lambda: Population([mlp(0)], [adam(mlp(1))]), "optimizer 0 must train parameters of model 0"),
    "seeds": (lambda: population(seeds=[1, 2]), "a seed for each model is needed, but got 2 for 4"),
    "clip": (lambda: population(max_grad_norm=-1.0), "max_grad_norm must be positive"),
    "a seed": (lambda: population(seeds=["a"] * 4), "seeds must be a list with an int for each model, but got ['a', "),
    "one seed": (lambda: population(seeds=3), "seeds must be a list with an int for each model, but got 3"),
    "a clip": (lambda: population(max_grad_norm=[1, None, 1, 1]), "max_grad_norm must be positive, one number or one for each of 4"),
    "a bool": (lambda: population(max_grad_norm=True), "max_grad_norm must be positive"),
    "an added clip": (lambda: population().add(*added(), max_grad_norm=-3.0), "max_grad_norm must be positive"),
    "an added seed": (lambda: population().add(*added(), seed="a"), "seeds must be a list with an int"),  # type: ignore[arg-type]
    "no place": (lambda: population().take_out([1, 2]), "there are members 0 to 3, but got [[1, 2]]"),  # type: ignore[arg-type]
    "copy": (lambda: population().copy(0, 9), "Population.copy: there are members 0 to 3, but got [9]"),
    "lazy": (lambda: Population([(m := nn.LazyLinear(2))], [adam(m)]), "lazy layers must have seen a batch, but model 0"),
    "closure": (lambda: Population([(m := mlp(0))], [torch.optim.LBFGS(m.parameters())]), "LBFGS evaluates the loss several times"),
    "parts": (lambda: population().step(lambda model, batch: model(batch).mean(), X, in_dims=0), "so it must be 4, but one has the shape"),
    "no parts": (
        lambda: population(strategy="loop").step(lambda model, batch: model(batch).mean(), X, in_dims=0),
        "so it must be 4, but one has the shape",
    ),
    "strategy": (lambda: population(strategy="fast"), "strategy must be one of 'auto', 'vmap', 'loop', 'compile', 'graph', but got 'fast'"),
    "place": (lambda: population().take_out(7), "there are members 0 to 3, but got [7]"),
    "all": (lambda: population().take_out(0, 1, 2, 3), "at least one member must stay"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case: str) -> None:
    make, text = WRONG[case]
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert text in str(caught.value)


def test_members_that_cannot_share_are_told_by_what_they_differ_in() -> None:
    models = [nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3)) for width in (4, 8)]
    with pytest.raises(ConfigurationError, match=r"member 1 and the first differ in 0.out_features: 4 and 8. Make a Population for each"):
        Population(models, [adam(model) for model in models])


def test_a_loss_of_the_wrong_shape_is_told() -> None:
    for strategy in ("vmap", "loop"):
        with pytest.raises(ValueError, match=r"must be a 0-dim tensor, but is \(32,\)"):
            population(strategy=strategy).step(lambda model, batch: F.cross_entropy(logits(model, batch), Y, reduction="none"), (X, Y))


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_the_norm_is_that_of_what_the_optimizer_was_given(strategy: Any) -> None:
    """A backbone that nobody trains may have a gradient, whatever it requires: it counts for nothing."""
    models = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).double() for _ in range(3)]
    before = [model[1].weight.detach().clone() for model in models]
    optimizers = [torch.optim.SGD(model[1].parameters(), lr=1.0) for model in models]
    population = Population(models, optimizers, max_grad_norm=0.1, strategy=strategy)
    for number in range(2):
        population.step(lambda model, batch: 100 * model(batch).square().sum(), torch.ones(2, 4, dtype=torch.float64))
        for model, old in zip(population.unstack(), before):
            moved = torch.cat([(model[1].weight - old).flatten(), model[1].bias - model[1].bias])  # type: ignore[index,operator]
            assert number or 0.05 < float(moved.norm()) <= 0.1
    assert all(model[0].weight.grad is None or strategy == "loop" for model in models)  # type: ignore[index]


def over(body: nn.Module) -> tuple[list[nn.Module], list[torch.optim.Optimizer]]:
    models: list[nn.Module] = [nn.Sequential(body, nn.Linear(4, 2)) for _ in range(3)]
    return models, [adam(model) for model in models]


@pytest.mark.parametrize("body", [nn.Linear(4, 4), nn.BatchNorm1d(4).requires_grad_(False)], ids=["trained", "running statistics"])
@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_what_two_members_would_write_is_refused(body: nn.Module, strategy: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"0.(weight|running_mean) of member 1 is also member 0's. Give each a copy.deepcopy"):
        Population(*over(body), strategy=strategy)
    population = Population(*(part[:1] for part in over(body)))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"of member 1 is also member 0's"):
        population.add(population._rows.members[0][0], population._rows.members[0][1])


class Still(nn.BatchNorm1d):
    """Stays in eval mode."""

    def train(self, mode: bool = True) -> Still:
        return super().train(False)


def test_what_all_have_in_common_and_nobody_writes_is_held_once() -> None:
    body = nn.Sequential(nn.Linear(4, 4), Still(4)).requires_grad_(False)
    population = Population(*over(body))
    assert population.reason == "3 at once"
    population.step(lambda model, batch: model(batch).square().mean(), torch.ones(5, 4))


LOSSES: dict[str, tuple[Any, str]] = {
    "none": (lambda model, batch: None, "must be a 0-dim tensor, but is a? ?NoneType"),
    "a number": (lambda model, batch: 1.0, "must be a 0-dim tensor, but is a? ?float"),
    "detached": (lambda model, batch: model(batch.double()).mean().detach(), "must depend on what its optimizer trains"),
}


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
@pytest.mark.parametrize("case", LOSSES)
def test_what_is_no_loss_is_told(case: str, strategy: Any) -> None:
    loss, text = LOSSES[case]
    with pytest.raises(ValueError, match=text):
        population(strategy=strategy).step(loss, X)


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.head = nn.Linear(5, 3), nn.Linear(5, 3)


def headed(strategy: Any, optimizer: Any) -> Population:
    torch.manual_seed(7)
    models = [Headed().double() for _ in range(4)]
    optimizers = [optimizer(model.parameters(), lr=0.02 * (1 + k), weight_decay=0.1) for k, model in enumerate(models)]
    return Population(models, optimizers, strategy=strategy)


def only_main(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model.main(batch[0].double()), batch[1])


def with_head(model: Any, batch: Any) -> Tensor:
    return only_main(model, batch) + F.cross_entropy(model.head(batch[0].double()), batch[1])


ORDERS = {
    "never": [only_main] * 4, "from the third step on": [only_main] * 2 + [with_head] * 3,
    "until the second": [with_head] * 2 + [only_main] * 3, "in turns": [only_main, with_head] * 3,
}  # fmt: skip


def in_groups(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """The head is a param group of its own, so it may be trained at other times."""
    main, bias, *head = parameters
    return torch.optim.AdamW([{"params": [main, bias]}, {"params": head}], **options)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, in_groups])
@pytest.mark.parametrize("order", ORDERS)
def test_parameters_that_no_loss_depends_on_are_left_alone_as_torch_does(order: str, optimizer: Any) -> None:
    fused, alone = headed("auto", optimizer), headed("loop", optimizer)
    for loss in ORDERS[order]:
        close(fused.step(loss, (X, Y)), alone.step(loss, (X, Y)))
    for one, other in zip(fused.unstack(), alone.unstack()):
        close(one.state_dict(), other.state_dict())
    if optimizer is in_groups:
        assert fused.reason == "4 at once"
    if order == "never":
        assert fused.reason == "4 at once" and "exp_avg" not in fused._rows.members[0][1].state[fused._rows.members[0][0].head.weight]


class Taught(nn.Module):
    """Against a frozen teacher that follows in place; one layer is used at some steps only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.main, self.teacher, self.at_times = nn.Linear(5, 3), nn.Linear(5, 3).requires_grad_(False), nn.Linear(5, 3)
        self.norm, self.scale = nn.BatchNorm1d(5), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, more: bool) -> Tensor:
        with torch.no_grad():
            for ours, theirs in zip(self.main.parameters(), self.teacher.parameters()):
                theirs.mul_(0.7).add_(0.3 * ours)
        x = self.norm(x) * self.scale
        return self.main(x) - self.teacher(x) + (self.at_times(x) if more else 0.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", ["00", "100", "0100", "0110"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_runs_its_loss_once_whatever_it_turns_out_to_depend_on(kind: Any, order: str) -> None:
    """What it writes in place, a frozen teacher, running statistics and the batch, is written once. Adam has no stack after other use."""

    def played(strategy: Any) -> list[Any]:
        models = [Taught(place).double() for place in range(4)]
        optimizers = [kind(model.parameters(), lr=0.1, weight_decay=0.1) for model in models]
        found = Population(models, optimizers, strategy=strategy, max_grad_norm=0.3)
        x, losses = X.double().repeat(4, 1, 1), []
        for more in order:
            losses.append(found.step(lambda model, x, more=more: F.cross_entropy(model(x.mul_(0.9), more == "1"), Y), x, in_dims=0))
        assert strategy == "loop" or kind is not torch.optim.SGD or found.reason == "4 at once"
        return [losses, x, [model.state_dict() for model in found.unstack()]]

    close(played("auto"), played("loop"))


def test_where_what_a_step_depends_on_leaves_no_stack_running_statistics_are_as_they_were() -> None:
    """Adam counts the steps of a param group."""
    models = [Taught(place).double() for place in range(4)]
    found = Population(models, [torch.optim.AdamW(model.parameters()) for model in models], strategy="vmap")
    found.step(lambda model, x: model(x, False).mean(), X.double())
    before = copy.deepcopy(found.unstack()[0].norm.state_dict())  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="the parameters of a group must have made the same steps"):
        found.step(lambda model, x: model(x, True).mean(), X.double())
    after = found.unstack()[0].norm.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_compiled_step_leaves_them_alone_too() -> None:
    """Slow: it compiles."""
    fused, alone = headed("compile", torch.optim.SGD), headed("loop", torch.optim.SGD)
    for loss in (only_main, only_main, with_head):
        close(fused.step(loss, (X, Y)), alone.step(loss, (X, Y)))
    close([one.state_dict() for one in fused.unstack()], [one.state_dict() for one in alone.unstack()])


def test_what_no_stack_holds_after_it_was_changed_outside_is_trained_one_by_one() -> None:
    fused = headed("auto", torch.optim.AdamW)
    fused.step(with_head, (X, Y))
    (model, optimizer), *_ = zip(fused.unstack(), [member[1] for member in fused._rows.members])
    optimizer.zero_grad()
    only_main(model, (X, Y)).backward()
    optimizer.step()
    fused.reload()
    assert fused.reason.startswith("one by one: torch.optim.AdamW: the parameters of a group must have made the same steps")
    assert fused.step(with_head, (X, Y)).shape == (4,)


class Parts(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = (nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((3, 4), (5,), (2, 1, 3)))


@pytest.mark.parametrize(("kind", "flags"), EXTREMES)
def test_several_param_groups_with_numbers_of_their_own_equal_torch_optim_over_50_steps(kind: Any, flags: dict[str, bool]) -> None:
    """One stream of gradients: the loss is linear in the parameters, and its coefficients are drawn anew for each step and member."""

    def loss(model: Any, gradients: Any) -> Tensor:
        return sum((parameter * part).sum() for parameter, part in zip((model.a, model.b, model.c), gradients))  # type: ignore[return-value]

    def made(model: Any, place: int) -> torch.optim.Optimizer:
        drawn = Run(kind, flags, seed=place, k=1)       # for its numbers
        groups = [drawn.options(kind) for _ in range(2)]
        if flags.get("nesterov"):
            groups = [{**group, "momentum": 0.5, "dampening": 0.0} for group in groups]
        first, second = ({**group, **flags} for group in groups)
        return kind([{"params": [model.a, model.c], **first}, {"params": [model.b], **second}], foreach=False)  # type: ignore[no-any-return]

    models, twins = ([Parts(place) for place in range(4)] for _ in range(2))
    fused = Population(models, [made(model, place) for place, model in enumerate(models)], strategy="vmap")
    optimizers = [made(twin, place) for place, twin in enumerate(twins)]
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        stream = [torch.randn(4, *part.shape, generator=generator, dtype=torch.float64) for part in models[0].parameters()]
        fused.step(loss, tuple(stream), in_dims=0)
        for place, (twin, optimizer) in enumerate(zip(twins, optimizers)):
            optimizer.zero_grad()
            loss(twin, [part[place] for part in stream]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for (model, optimizer), twin, other in zip(fused._rows.members, fused.unstack() and twins, optimizers):
        torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-10, atol=1e-10)
        for one, two in zip(model.parameters(), twin.parameters()):
            kept = {name: value for name, value in other.state[two].items() if isinstance(value, Tensor)}
            for name, value in kept.items():
                torch.testing.assert_close(optimizer.state[one][name].double(), value.double(), rtol=1e-10, atol=1e-12)
