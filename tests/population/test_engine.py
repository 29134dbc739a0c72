"""Trials trained together give the looks that each gives alone; what cannot be together is apart, and said so."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import DivergedError
from torchtune_hp.population import rules
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.layout import Block
from torchtune_hp.population.stack import Stack
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(96) % 3
X = F.one_hot(Y, 6).double() + 0.8 * torch.randn(96, 6, generator=GENERATOR, dtype=torch.float64)


class Toy(hp.ModelTrainable):
    """A network of two layers on three blobs, in float64."""

    batch_size = 16

    def setup(self, config: Any) -> None:
        self.model = self.build(config).double()
        self.optimizer = self.optimize(config)

    def build(self, config: Any) -> nn.Module:
        width = config.get("width", 8)
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(config.get("p", 0.2)), nn.Linear(width, 3))

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=config.get("lr", 0.01))

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:64], Y[:64]), val=(X[64:], Y[64:]), batch_size=16)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        logits = model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": (logits.argmax(-1) == batch[1]).double().mean()}


Configs = Sequence[dict[str, Any]]
CONFIGS: Configs = [{"lr": 0.003 * (1 + k), "p": 0.1 * k, "alpha": 0.1 * k, "steps": 1 + k % 3} for k in range(5)]


def runners(cls: type[hp.ModelTrainable], configs: Configs = CONFIGS, max_t: int = 9) -> list[ModelRunner]:
    recipe = ModelRecipe(cls)
    place = Place(None, "cpu", max_t, ("a/loss" if cls is Several else "loss",), "toy")
    return [recipe.start(Trial(k, (), config, seed=50 + k), place) for k, config in enumerate(configs)]


def alone(cls: type[hp.ModelTrainable], configs: Configs = CONFIGS, n: int = 3) -> list[list[Look]]:
    return [[runner.advance() for _ in range(n)] for runner in runners(cls, configs)]


def together(cls: type[hp.ModelTrainable], configs: Configs = CONFIGS, n: int = 3) -> tuple[list[list[Any]], list[str], Engine]:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "vmap")
    members = runners(cls, configs)
    looks = [engine.advance(members) for _ in range(n)]
    return [[look[member] for look in looks] for member in members], [text for text in said if "begins with" not in text], engine


def same(fused: Sequence[Sequence[Any]], single: Sequence[Sequence[Look]]) -> None:
    for ours, theirs in zip(fused, single, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert isinstance(one, Look), one
            assert one.step == other.step and one.done == other.done and one.notes == other.notes
            assert one.metrics == pytest.approx(other.metrics, rel=1e-8, abs=1e-9, nan_ok=True)


# Fused equals alone -----------------------------------------------------------------------------------------------------------


class WithHparams(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        loss = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return (loss * (1 + self.hparams["alpha"])).mean(), {"alpha": self.hparams["alpha"], "one": 1.0}


class Drawing(Toy):
    """Augments, and draws in its loss."""

    def augment(self, batch: Any) -> Any:
        x, y = batch
        return x + 0.1 * torch.randn_like(x), y

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        weight = torch.rand(())
        return (1 + weight) * super().training_step(model, batch)


class InPlace(Toy):
    """Writes on the batches it is given."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        batch[0].sub_(0.1)
        return super().training_step(model, batch)

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        batch[0].sub_(0.1)
        return super().validation_step(model, batch)


class Gathering(Toy):
    """Metrics of the whole set, by scikit-learn; own weights."""

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        logits = model(batch[0])
        return {"loss": (F.cross_entropy(logits, batch[1]), 2.0), "scores": logits.softmax(-1), "labels": batch[1]}

    def validation_end(self, gathered: Any) -> Any:
        from sklearn.metrics import roc_auc_score

        return {"auc": float(roc_auc_score(gathered["labels"].numpy(), gathered["scores"].numpy(), multi_class="ovr"))}


class Several(Toy):
    """Named validation sets, every second iteration; accumulation and clipping."""

    accumulate = 2

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.max_grad_norm = None if config["lr"] > 0.01 else 0.05
        self.validate_every = config["steps"]

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:64], Y[:64]), val={"a": (X[64:80], Y[64:80]), "b": (X[80:], Y[80:])}, batch_size=16)


class Updates(Toy):
    iteration = 3


class Scheduled(Toy):
    lr_step = "update"

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=10 * config["lr"], total_steps=40)


class Plateau(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=0, threshold=1.0)


class Grouped(Toy):
    def optimize(self, config: Any) -> torch.optim.Optimizer:
        lr, layers = config["lr"], self.model
        groups = [{"params": layers[0].parameters(), "lr": lr}, {"params": layers[3].parameters(), "lr": 0.1 * lr}]
        return torch.optim.SGD(groups, lr=1.0, momentum=0.9 if config["lr"] > 0.01 else 0.0, weight_decay=config["p"])


class Hooked(Toy):
    """Changes a learning rate, and weights, between iterations; its own numbers are part of it."""

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.best = min(metrics["loss"], getattr(self, "best", math.inf))
        self.optimizer.param_groups[0]["lr"] *= 0.5
        with torch.no_grad():
            self.model[3].bias.zero_()


class Norm(Toy):
    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Bf16(Toy):
    precision = "bf16"

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.model.float()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0].float()), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model(batch[0].float()), batch[1])}


class Using(Toy):
    """Reaches for the model through self, and calls a method of its own."""

    def penalty(self) -> Tensor:
        return sum((parameter**2).sum() for parameter in self.model.parameters())  # type: ignore[return-value]

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) + 0.01 * self.penalty()


SAME = [Toy, WithHparams, Drawing, InPlace, Gathering, Several, Updates, Scheduled, Plateau, Grouped, Hooked, Norm, Using]


@pytest.mark.parametrize("cls", SAME)
def test_together_gives_the_looks_of_alone(cls: type[Toy]) -> None:
    fused, said, engine = together(cls)
    assert engine.stacks() == [5] and not said
    same(fused, alone(cls))


def test_with_bf16_it_does_up_to_its_precision() -> None:
    fused, said, engine = together(Bf16)
    assert engine.stacks() == [5] and not said
    for ours, theirs in zip(fused, alone(Bf16)):
        assert [look.metrics["loss"] for look in ours] == pytest.approx([look.metrics["loss"] for look in theirs], rel=2e-2)


def test_whoever_comes_and_goes_the_curves_are_the_same() -> None:
    single = alone(Toy, n=4)
    members, engine = runners(Toy), Engine(strategy="vmap")
    looks: dict[ModelRunner, list[Any]] = {member: [] for member in members}
    for turn in ([0, 1, 2], [0, 1, 2, 3, 4], [1, 3, 4], [0], [2, 3, 4, 0], [0, 1, 2, 3, 4], [2, 4], [1, 3]):
        chosen = [members[k] for k in turn if len(looks[members[k]]) < 4]
        for member, look in engine.advance(chosen).items():
            looks[member].append(look)
    same([looks[member] for member in members], [curve[: len(looks[member])] for curve, member in zip(single, members)])
    assert sum(map(len, looks.values())) >= 18


def test_a_settled_runner_can_be_saved_and_goes_on_alone_from_there() -> None:
    members, engine = runners(Scheduled), Engine(strategy="vmap")
    for _ in range(2):
        engine.advance(members)
    for member in members:
        engine.settle(member)
    recipe = ModelRecipe(Scheduled)
    states = [(member.save(), Trial(k, (), CONFIGS[k], seed=50 + k)) for k, member in enumerate(members)]
    place = Place(None, "cpu", 9, ("loss",), "toy")
    third = [[recipe.start(trial, place, state, 2).advance()] for state, trial in states]
    same(third, [curve[2:] for curve in alone(Scheduled)])
    same([[look] for look in engine.advance(members).values()], [curve[2:] for curve in alone(Scheduled)])


def test_one_that_left_stands_where_it_was_trained_to() -> None:
    members, engine = runners(Toy), Engine(strategy="vmap")
    engine.advance(members)
    engine.leave(members[2])
    same([[members[2].advance()]], [alone(Toy)[2][1:2]])
    rest = [member for member in members if member is not members[2]]
    same([[look] for look in engine.advance(rest).values()], [curve[1:2] for k, curve in enumerate(alone(Toy)) if k != 2])


def test_of_one_that_is_discarded_nothing_is_written_back_and_the_others_go_on() -> None:
    members, engine = runners(Toy), Engine(strategy="vmap")
    untrained = {name: tensor.clone() for name, tensor in members[2].member.model.state_dict().items()}
    engine.advance(members)
    engine.discard(members[2])
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in members[2].member.model.state_dict().items())
    rest = [member for member in members if member is not members[2]]
    same([[look] for look in engine.advance(rest).values()], [curve[1:2] for k, curve in enumerate(alone(Toy)) if k != 2])
    engine.settle(rest[0])
    same([[rest[0].advance()]], [alone(Toy)[0][2:3]])


# Apart ------------------------------------------------------------------------------------------------------------------------


def test_different_shapes_are_different_stacks_over_the_same_call() -> None:
    configs = [{"width": 510 + 8 * (k % 2), "lr": 0.01} for k in range(6)]
    fused, said, engine = together(Toy, configs)
    assert sorted(engine.stacks()) == [3, 3] and not said
    same(fused, alone(Toy, configs))


class Sized(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.batch_size = config["size"]


def test_the_stacks_there_are_and_what_keeps_them_apart_are_told() -> None:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(f"{kind}: {text}"), "vmap")
    configs = [{"width": 510 + 8 * (k % 2), "lr": 0.01, "size": 16 if k < 6 else 32} for k in range(9)]
    engine.advance(runners(Sized, configs))
    assert said == [
        "stack: Sized: stack 1 begins with 3 trials.",
        "stack: Sized: stack 2 begins with 3 trials; it differs from stack 1 in 0.out_features: up to 512 and up to 1024.",
    ] and sorted(engine.stacks()) == [3, 3]
    engine.advance(runners(Sized, [{**config, "size": 32} for config in configs]))
    assert said[2] == "stack: Sized: stack 3 begins with 5 trials; it differs from stack 1 in batch_size: 16 and 32."


class ReadsConfig(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (1 + self.config["steps"])


class ReadsSelf(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.factor = config["steps"]
        self.unread = config["alpha"]

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (1 + self.factor)


@pytest.mark.parametrize(("cls", "named"), [(ReadsConfig, "self.config['steps']"), (ReadsSelf, "self.factor")])
def test_what_hooks_read_keeps_apart_and_is_named_and_what_they_do_not_read_does_not(cls: type[Toy], named: str) -> None:
    configs = [{"lr": 0.01, "steps": 1 + k % 2, "alpha": 0.1 * k} for k in range(6)]
    fused, said, engine = together(cls, configs)
    assert sorted(engine.stacks()) == [3, 3]
    assert len(said) == 1 and f"the hooks read {named}, which differs between trials: one stack for each value" in said[0]
    same(fused, alone(cls, configs))


class Writes(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        self.seen = getattr(self, "seen", 0) + 1
        return super().training_step(model, batch)


class Items(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        return loss * 2 if loss.item() > 1.0 else loss


class Foreign(Toy):
    def augment(self, batch: Any) -> Any:
        return batch[0] * (1 + 0.1 * random.random()), batch[1]


class Explicit(Toy):
    def augment(self, batch: Any) -> Any:
        return batch[0] + torch.randn(6, generator=torch.Generator().manual_seed(3)), batch[1]


class Unknown(Toy):
    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return torch.optim.Rprop(self.model.parameters(), lr=config["lr"])


@pytest.mark.parametrize(
    ("cls", "why"),
    [(Writes, "seen"), (Items, "item"), (Unknown, "Rprop"), (Foreign, "from random or numpy"), (Explicit, "generator")],
)
def test_what_cannot_be_stacked_is_trained_one_by_one_and_the_reason_is_said_once(cls: type[Toy], why: str) -> None:
    fused, said, engine = together(cls)
    assert not engine.stacks() and len(said) == 1
    assert said[0].startswith(f"{cls.__name__}: trained one by one: ") and why in said[0]
    same(fused, alone(cls))


def test_few_are_trained_one_by_one() -> None:
    fused, said, engine = together(Toy, CONFIGS[:2])
    assert not engine.stacks() and not said
    same(fused, alone(Toy, CONFIGS[:2]))


class Spare(Toy):
    """Has a layer that its loss does not depend on: alone, its optimizer does not touch it."""

    def build(self, config: Any) -> nn.Module:
        model = super().build(config)
        model.spare = nn.Linear(2, 2)
        return model

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=config["lr"], weight_decay=0.5)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(model[3](torch.relu(model[0](x))), y)

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": self.training_step(model, batch), "spare": model.spare.weight.sum()}


def test_parameters_that_the_loss_does_not_depend_on_are_left_alone() -> None:
    fused, said, engine = together(Spare)
    assert engine.stacks() == [5] and not said
    same(fused, alone(Spare))
    assert fused[0][0].metrics["spare"] == fused[0][2].metrics["spare"]


class Switching(Toy):
    """A second head that counts from iteration `at` on, or up to it; `on_iteration_end` turns the switch."""

    def build(self, config: Any) -> nn.Module:
        return nn.ModuleDict({"main": nn.Linear(6, 3), "more": nn.Linear(6, 3)})

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=config["lr"], momentum=0.9, weight_decay=0.1)

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.on = not config["turns_on"]
        self.iterations = 0

    def training_step(self, model: Any, batch: Any) -> Any:
        loss = F.cross_entropy(model["main"](batch[0]), batch[1])
        return loss + F.cross_entropy(model["more"](batch[0]), batch[1]) if self.on else loss

    def validation_step(self, model: Any, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model["more"](batch[0]), batch[1]), "size": model["more"].weight.square().sum()}

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.iterations += 1
        self.on = (self.iterations >= self.config["at"]) == self.config["turns_on"]


@pytest.mark.parametrize("turns_on", [True, False])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_a_loss_depends_on_may_change_between_iterations(at: int, turns_on: bool) -> None:
    configs = [{"lr": 0.02 * (1 + k), "at": at, "turns_on": turns_on} for k in range(5)]
    fused, *_ = together(Switching, configs, 5)
    same(fused, alone(Switching, configs, 5))


PLANTED: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "the first member's rate for all": ("lr", lambda values: values[:1].expand_as(values), "the Adam step"),
    "another rate in the last row": ("lr", lambda values: torch.cat([values[:-1], 2 * values[-1:]]), "the Adam step"),
    "another beta2": ("beta2", lambda values: 0.99 * values, "exp_avg_sq after the Adam step"),
}
"""(the number that is wrong, what is made of it, what is said)"""


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_in_one_row_or_in_what_an_optimizer_keeps_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = rules.RULES[torch.optim.Adam].update
    name, wrong, said_of = PLANTED[fault]

    def update(p: Tensor, g: Tensor, state: Any, numbers: Any, flags: Any) -> None:
        right(p, g, state, {**numbers, name: wrong(numbers[name])}, flags)

    monkeypatch.setattr(rules.RULES[torch.optim.Adam], "update", update)
    fused, said, engine = together(Toy)
    assert not engine.stacks() and said_of in said[0], said
    same(fused, alone(Toy))


@pytest.mark.parametrize("lr", [1e-2, 1e-5])
def test_a_small_step_that_goes_wrong_is_found(lr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where it is far less than the parameters."""

    class Small(Toy):
        def setup(self, config: Any) -> None:
            self.model = self.build(config)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.1)

        @classmethod
        def data(cls) -> hp.Data:
            return hp.Data((X[:64].float(), Y[:64]), val=(X[64:].float(), Y[64:]), batch_size=16)

    assert together(Small)[2].stacks() == [5]
    right = rules.RULES[torch.optim.AdamW].update

    def undecayed(p: Tensor, g: Tensor, state: Any, numbers: Any, flags: Any) -> None:
        right(p, g, state, {**numbers, "weight_decay": 0.0 * numbers["weight_decay"]}, flags)

    monkeypatch.setattr(rules.RULES[torch.optim.AdamW], "update", undecayed)
    assert "the AdamW step differs" in together(Small)[1][0]


class SpareGroup(Spare):
    """The layer has a param group of its own."""

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        own = list(self.model.spare.parameters())
        others = [parameter for name, parameter in self.model.named_parameters() if not name.startswith("spare")]
        return torch.optim.AdamW([{"params": others}, {"params": own}], lr=config["lr"], weight_decay=0.5)


def test_a_param_group_that_the_loss_does_not_depend_on_is_left_alone() -> None:
    fused, said, engine = together(SpareGroup)
    assert engine.stacks() == [5] and not said
    same(fused, alone(SpareGroup))


FAULTS = [("loss", "the loss differs"), ("update", "the Adam step differs between stacked and alone"), ("grad", "the gradient of")]


@pytest.mark.parametrize(("fault", "said_of"), FAULTS)
def test_a_fault_in_the_shared_step_is_found_at_the_first_and_costs_nothing(
    fault: str, said_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "update":
        right = rules.RULES[torch.optim.Adam].update

        def wrong(p: Tensor, g: Tensor, state: Any, numbers: Any, flags: Any) -> None:
            right(p, g, state, {**numbers, "lr": 1.01 * numbers["lr"]}, flags)

        monkeypatch.setattr(rules.RULES[torch.optim.Adam], "update", wrong)
    elif fault == "grad":
        views = Block.views

        def halved(self: Block, flat: Tensor) -> dict[str, Tensor]:
            return {name: 0.5 * part + 0.5 * part.detach() for name, part in views(self, flat).items()}

        monkeypatch.setattr(Block, "views", halved)
    else:
        gradients = Stack.gradients

        def wrong_loss(self: Stack, *args: Any) -> Any:
            found = gradients(self, *args)
            return found._replace(losses=found.losses * 1.001)

        monkeypatch.setattr(Stack, "gradients", wrong_loss)
    fused, said, engine = together(Toy)
    assert not engine.stacks() and len(said) == 1 and said_of in said[0], said
    same(fused, alone(Toy))


class OnHost(Toy):
    """Its validation needs numbers on the host, as scikit-learn does; its training does not. A buffer counts validations."""

    def build(self, config: Any) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        model.register_buffer("validations", torch.zeros(()))
        return model

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        model.validations += 1
        found = model(batch[0]).argmax(-1).numpy() == batch[1].numpy()
        if self.config.get("fails") and model.validations > 2:
            raise ArithmeticError("on purpose")
        return {"loss": 1.0 - found.mean(), "validations": model.validations}


def test_a_validation_that_no_stack_takes_is_each_member_s_own_and_training_stays_at_once() -> None:
    fused, said, engine = together(OnHost)
    assert engine.stacks() == [5] and [text for text in said if "validated" in text] == [
        "OnHost: trained at once, but validated one by one: RuntimeError: Cannot access data pointer of Tensor that doesn't have storage."
    ]
    same(fused, alone(OnHost))


def test_a_validation_by_itself_that_raises_ends_its_member_alone() -> None:
    configs = [{**config, "fails": k == 2} for k, config in enumerate(CONFIGS)]
    engine, members = Engine(strategy="vmap"), runners(OnHost, configs)
    answers = [engine.advance(members), engine.advance(members)]
    assert isinstance(answers[1][members[2]], ArithmeticError)
    expected = alone(OnHost, n=2)
    for k in (0, 1, 3, 4):
        same([[answer[members[k]] for answer in answers]], [expected[k]])


class CountsCalls(OnHost):
    """A module counts in Python, so that the whole iteration is done again, one by one."""

    def build(self, config: Any) -> nn.Module:
        class Counting(nn.Linear):
            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return super().forward(x)

        model = nn.Sequential(Counting(6, 3))
        model.register_buffer("validations", torch.zeros(()))
        return model


class WritesInValidation(OnHost):
    """What its validation writes decides how it is trained on: the best so far, and a switch."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.best, self.seen = 0.0, 0

    def build(self, config: Any) -> nn.Module:
        model = super().build(config)
        model.more = nn.Linear(6, 3)
        return model

    def training_step(self, model: Any, batch: Any) -> Any:
        loss = (1 + self.best) * F.cross_entropy(model[3](model[2](model[1](model[0](batch[0])))), batch[1])
        return loss + F.cross_entropy(model.more(batch[0]), batch[1]) if self.seen > 1 else loss

    def validation_step(self, model: Any, batch: Any) -> Any:
        logits = model[3](model[2](model[1](model[0](batch[0])))) + model.more(batch[0])
        share = float((logits.argmax(-1).numpy() == batch[1].numpy()).mean())
        self.best, self.seen = max(self.best, share), self.seen + 1
        return {"loss": 1 - share, "best": self.best, "more": model.more.weight.square().sum()}


@pytest.mark.parametrize("cls", [CountsCalls, WritesInValidation])
def test_no_iteration_is_trained_twice_for_a_validation_on_the_host(cls: type[Toy]) -> None:
    fused, *_ = together(cls, n=5)
    same(fused, alone(cls, n=5))


class CountsValidations(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.validate_every = 1 + int(config["steps"])
        self.model.register_buffer("validations", torch.zeros(()))

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        model.validations += 1
        return {**super().validation_step(model, batch), "validations": model.validations}


class Remainder(Toy):
    """The last batch of a pass is smaller, and only there, or only elsewhere, a second head counts."""

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:58], Y[:58]), val=(X[64:], Y[64:]), batch_size=16, drop_last=False)

    def build(self, config: Any) -> nn.Module:
        return nn.ModuleDict({"main": nn.Linear(6, 3), "more": nn.Linear(6, 3)})

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=config["lr"], momentum=0.9, weight_decay=0.1)

    def training_step(self, model: Any, batch: Any) -> Any:
        loss = F.cross_entropy(model["main"](batch[0]), batch[1])
        return loss + F.cross_entropy(model["more"](batch[0]), batch[1]) if (len(batch[0]) < 16) == self.in_the_last else loss

    in_the_last = True

    def validation_step(self, model: Any, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model["more"](batch[0]), batch[1])}


class NotInTheLast(Remainder):
    in_the_last = False


@pytest.mark.parametrize("cls", [CountsValidations, Remainder, NotInTheLast])
def test_what_differs_from_validation_to_validation_or_batch_to_batch_is_as_alone(cls: type[Toy]) -> None:
    fused, *_ = together(cls, n=5)
    same(fused, alone(cls, n=5))


# Containment ------------------------------------------------------------------------------------------------------------------


class Diverging(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        factor = torch.where(self.hparams["bad"] > 0, float("nan"), 1.0)
        return super().training_step(model, batch) * factor


@pytest.mark.parametrize("base", [Diverging, type("Clipped", (Diverging,), {"max_grad_norm": 0.1})])
def test_a_loss_that_is_not_finite_ends_its_member_and_leaves_the_others_bits(base: Callable[..., Any]) -> None:
    ill = [{"lr": 0.01 * (k + 1), "bad": float(k == 2)} for k in range(5)]
    well = [{**config, "bad": 0.0} for config in ill]
    fused, said, _ = together(base, ill, n=1)
    healthy, _, _ = together(base, well, n=1)
    assert isinstance(fused[2][0], DivergedError) and "must be finite, but was nan in iteration 1, batch 1 of 4" in str(fused[2][0])
    assert [curve for k, curve in enumerate(fused) if k != 2] == [curve for k, curve in enumerate(healthy) if k != 2] and not said


def test_who_is_compared_after_the_first_row_was_ill_is_compared_from_where_it_stands() -> None:
    """The first comparison came to nothing; the next one is with a member whose own module is behind its row."""
    configs = [{"lr": 0.01 * (k + 1), "bad": float(k == 0)} for k in range(5)]
    said: list[str] = []
    engine, members = Engine(lambda kind, text: said.append(text), "vmap"), runners(Diverging, configs)
    first = engine.advance(members)
    assert isinstance(first[members[0]], DivergedError)
    engine.leave(members[0])
    looks = [first, *(engine.advance(members[1:]) for _ in range(2))]
    assert engine.stacks() == [4] and all("begins with" in text for text in said), said
    theirs = [[runner.advance() for _ in range(3)] for runner in runners(Diverging, configs)[1:]]
    same([[look[member] for look in looks] for member in members[1:]], theirs)


class Odd(Toy):
    """Fails in on_iteration_end of one member."""

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        if self.config["bad"]:
            raise OSError("no room")


def test_an_error_in_one_member_s_own_python_is_its_own() -> None:
    configs = [{"lr": 0.01, "bad": k == 1} for k in range(4)]
    fused, _, _ = together(Odd, configs, n=1)
    assert isinstance(fused[1][0], OSError)
    single = [[runner.advance()] for k, runner in enumerate(runners(Odd, configs)) if k != 1]
    same([curve for k, curve in enumerate(fused) if k != 1], single)


class Always(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        raise KeyError("always")


def test_an_error_of_all_is_everyone_s() -> None:
    fused, _, _ = together(Always, n=1)
    assert all(isinstance(curve[0], KeyError) for curve in fused)


class Twice(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch), {"loss": 1.0}


def test_a_number_beside_the_loss_cannot_take_its_name() -> None:
    fused, _, _ = together(Twice, n=1)
    assert all("'loss' beside the loss would be reported as 'train_loss'" in str(curve[0]) for curve in fused)
