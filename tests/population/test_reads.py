"""What hooks and modules read of a member's own: lifted where a tensor can stand for it, apart where not, nothing where it is not read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp

from .test_engine import Configs, Toy, alone, same, together

VALUES = [{"lr": 0.01, "alpha": 0.25 * k, "kind": "ab"[k % 2], "deep": {"beta": 0.5 + k, "n": k % 2}} for k in range(6)]


def one_stack(cls: type[Toy], configs: Configs, *named: str) -> None:
    """One stack of all, the looks of alone, and each of `named` said to be lifted."""
    fused, said, engine = together(cls, configs)
    assert engine.stacks() == [len(configs)], said
    assert said == [f"{cls.__name__}: {name} differs between trials and is lifted: each has its own in the stack." for name in named]
    same(fused, alone(cls, configs))


def two_stacks(cls: type[Toy], configs: Configs, named: str) -> list[str]:
    fused, said, engine = together(cls, configs)
    assert sorted(engine.stacks()) == [3, 3], said
    assert any(f"the hooks read {named}, which differ" in text for text in said), said
    same(fused, alone(cls, configs))
    return said


# The trainable's own ----------------------------------------------------------------------------------------------------------


class OfConfig(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (1 + self.config["alpha"]) ** self.config["deep"]["beta"]


class OfSelf(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.alpha = config["alpha"]
        self.deep = config["deep"]

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        mixed = torch.where(x > self.alpha, x * self.alpha, x)
        return F.cross_entropy(model(mixed), y) + self.deep["beta"] * 0.1

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {**super().validation_step(model, batch), "own": self.alpha * 2, "late": batch[0].mean() * self.deep["beta"]}


class Weights(Toy):
    """A tensor that is no parameter."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.weights = torch.tensor([1.0, 1.0 + config["alpha"], 2.0], dtype=torch.float64)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1], weight=self.weights)


class InAugment(Toy):
    def augment(self, batch: Any) -> Any:
        return batch[0] * (1 + self.config["alpha"] * torch.rand((), dtype=torch.float64)), batch[1]


@pytest.mark.parametrize(
    ("cls", "named"),
    [
        (OfConfig, ["self.config['alpha']", "self.config['deep']['beta']"]), (OfSelf, ["self.alpha", "self.deep['beta']"]),
        (Weights, ["self.weights"]), (InAugment, ["self.config['alpha']"]),
    ],
)  # fmt: skip
def test_a_number_that_is_read_is_each_member_s_own(cls: type[Toy], named: list[str]) -> None:
    one_stack(cls, VALUES, *named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_lifted_leaves_the_model_its_dtype(dtype: torch.dtype) -> None:
    class Single(Toy):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.model.to(dtype)
            self.optimizer = self.optimize(config)

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            logits = model(batch[0].to(dtype) * self.config["alpha"]) / (1 + self.config["alpha"])
            assert logits.dtype is dtype
            return F.cross_entropy(logits, batch[1])

        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            return {"loss": F.cross_entropy(model(batch[0].to(dtype)), batch[1])}

    fused, said, engine = together(Single, VALUES)
    assert engine.stacks() == [6] and len(said) == 1, said
    for ours, theirs in zip(fused, alone(Single, VALUES)):
        assert [look.metrics["loss"] for look in ours] == pytest.approx([look.metrics["loss"] for look in theirs], rel=1e-4)


class Branches(Toy):
    """Python decides by a number: no tensor can stand there."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        return loss * 2 if self.config["alpha"] > 0.5 else loss


class Asks(Toy):
    """Does not raise, but gives another number for a tensor."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        alpha = self.config["alpha"]
        return super().training_step(model, batch) * (1 + alpha if isinstance(alpha, float) else 1)


class AsksLate(Toy):
    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        alpha = self.config["alpha"]
        return {**super().validation_step(model, batch), "own": float(alpha in {0.0, 9.0})}


@pytest.mark.parametrize("cls", [Branches, Asks, AsksLate])
def test_where_a_tensor_gives_anything_else_there_is_a_stack_for_each_value(cls: type[Toy]) -> None:
    configs = [{"lr": 0.002 * (1 + k), "alpha": 0.9 * (k % 2)} for k in range(6)]
    said = two_stacks(cls, configs, "self.config['alpha']")
    assert any("cannot be a tensor" in text or "differs between stacked and alone" in text for text in said), said


def test_one_number_that_cannot_be_lifted_does_not_keep_another_from_it() -> None:
    class Both(Branches):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return super().training_step(model, batch) * (1 + self.config["beta"])

    configs = [{"lr": 0.01, "alpha": 0.9 * (k % 2), "beta": 0.1 * k} for k in range(6)]
    said = two_stacks(Both, configs, "self.config['alpha']")
    assert "Both: self.config['beta'] differs between trials and is lifted: each has its own in the stack." in said


# Modules' own -----------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Reads `scale`, and `cfg["shift"]`; never `note`, `lr` or `cfg["lr"]`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.note, self.lr = f"block {config['alpha']}", config["lr"]
        self.scale = config.get("scale", 1.0)
        self.cfg = {"lr": config["lr"], "shift": config.get("shift", 0.0), "kind": config.get("mode", "a")}

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x) * self.scale + self.cfg["shift"]
        return y.relu() if self.cfg["kind"] == "b" else y


class Blocks(Toy):
    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(Block(config))


UNREAD = [{"lr": 0.002 * (1 + k), "alpha": 0.1 * k} for k in range(6)]


def test_what_a_module_holds_and_never_reads_keeps_nobody_apart() -> None:
    one_stack(Blocks, UNREAD)


def test_a_float_that_a_module_reads_is_each_member_s_own() -> None:
    one_stack(Blocks, [{**config, "scale": 1.0 + 0.1 * k} for k, config in enumerate(UNREAD)], "model.0.scale")


def test_a_key_that_a_module_reads_is_told_from_those_it_does_not() -> None:
    one_stack(Blocks, [{**config, "shift": 0.1 * k} for k, config in enumerate(UNREAD)], "model.0.cfg['shift']")
    two_stacks(Blocks, [{**config, "mode": "ab"[k % 2]} for k, config in enumerate(UNREAD)], "model.0.cfg['kind']")


class Peeks(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if vars(self)["flag"] else 1)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.flag = config["flag"]
        self.lr = self.note = self.cfg = None       # type: ignore[assignment]
        self.cfg = {"shift": 0.0, "kind": "a"}


def test_who_looks_into_a_module_s_dict_has_read_it() -> None:
    class Peeking(Toy):
        def build(self, config: Any) -> nn.Module:
            return Peeks(config)

    two_stacks(Peeking, [{**config, "flag": bool(k % 2)} for k, config in enumerate(UNREAD)], "model.flag")


class Late(Block):
    """Reads `gamma` in its twentieth call only."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gamma, self.note = config["gamma"], ""
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return super().forward(x) * (self.gamma if self.count > 9 else 1)


def test_what_is_read_later_is_found_then() -> None:
    class Lately(Toy):
        def build(self, config: Any) -> nn.Module:
            return Late(config)

    configs = [{**config, "gamma": 2 + k % 2} for k, config in enumerate(UNREAD)]
    fused, said, engine = together(Lately, configs, n=4)
    assert any("the hooks read model.gamma" in text for text in said) or not engine.stacks()
    assert [len(curve) for curve in fused] == [4] * 6


def test_a_number_of_torch_s_own_modules_that_takes_no_tensor_splits() -> None:
    class Sloped(Toy):
        def build(self, config: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(6, 8), nn.Threshold(config["alpha"], 0.0), nn.Linear(8, 3))

    two_stacks(Sloped, [{"lr": 0.01, "alpha": 0.1 + 0.1 * (k % 2)} for k in range(6)], "model.1.threshold")


NUMBERS: dict[str, tuple[Any, str, str]] = {
    "layer norm": (lambda eps: nn.LayerNorm(8, eps=eps), "eps", "0.eps"),
    "batch norm eps": (lambda eps: nn.BatchNorm1d(8, eps=eps), "eps", "0.eps"),
    "batch norm momentum": (lambda m: nn.BatchNorm1d(8, momentum=m), "momentum", "0.momentum"),
    "attention": (lambda p: nn.TransformerEncoderLayer(8, 2, 8, dropout=p, batch_first=True), "dropout", "0.self_attn.dropout"),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_of_torch_s_own_modules_is_each_member_s_own_where_there_is_a_form_that_takes_a_tensor(case: str) -> None:
    make, _, read = NUMBERS[case]

    class Numbered(Toy):
        def build(self, config: Any) -> nn.Module:
            first = nn.Unflatten(1, (1, 8)), make(config["alpha"]), nn.Flatten()
            return nn.Sequential(nn.Linear(6, 8), nn.Sequential(*(first if case == "attention" else first[1:2])), nn.Linear(8, 3))

    place = read.replace("0.", "1.1." if case == "attention" else "1.0.", 1)
    one_stack(Numbered, [{"lr": 0.01, "alpha": 0.125 * (1 + k)} for k in range(6)], f"model.{place}")


class Smoothing(Toy):
    """`F.cross_entropy` as anyone writes it."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=self.config["alpha"])


class ByHparams(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return hp.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=self.hparams["smooth"].double())


def test_label_smoothing_is_each_member_s_own() -> None:
    configs = [{"lr": 0.01, "alpha": 0.1 * k, "smooth": 0.125 * k} for k in range(6)]
    one_stack(Smoothing, configs, "self.config['alpha']")
    one_stack(ByHparams, configs)


def test_the_way_out_is_told_where_a_function_of_torch_takes_no_tensor() -> None:
    class Hard(Toy):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return F.cross_entropy(F.hardtanh(model(batch[0]), -2.0, self.config["top"]), batch[1])

    said = two_stacks(Hard, [{"lr": 0.01, "top": 1.0 + k % 2} for k in range(6)], "self.config['top']")
    assert "self.config['top'] cannot be a tensor where it is used: torch's hardtanh takes a float." in said[-1]
    assert "torchtune_hp.functional has forms that take one: batch_norm, celu, cross_entropy," in said[-1]


def test_the_model_s_own_class_is_seen_as_itself() -> None:
    seen: set[Any] = set()

    class Named(Block):
        def forward(self, x: Tensor) -> Tensor:
            seen.add((type(self).__name__, isinstance(self, Named), repr(self).partition("(")[0]))
            return super().forward(x)

    class Naming(Toy):
        def build(self, config: Any) -> nn.Module:
            return Named(config)

    one_stack(Naming, UNREAD)
    assert seen == {("Named", True, "Named")}


# Those that come later --------------------------------------------------------------------------------------------------------


def test_who_comes_later_joins_the_stack_of_those_who_read_the_same() -> None:
    class Same(Toy):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return super().training_step(model, batch) * self.config["same"]

    from torchtune_hp.population.engine import Engine

    from .test_engine import runners

    members = runners(Same, [{"lr": 0.01 * (1 + k), "same": 2.0} for k in range(6)])
    engine = Engine(strategy="vmap")
    engine.advance(members[:4])
    engine.advance(members)
    assert engine.stacks() == [6]


def test_who_comes_later_with_another_value_is_told_apart_by_it() -> None:
    from torchtune_hp.population.engine import Engine

    from .test_engine import runners

    configs = [{**config, "scale": 1.0 if k < 3 else 1.0 + k, "note": k} for k, config in enumerate(UNREAD)]
    members, engine = runners(Blocks, configs), Engine(strategy="vmap")
    first = engine.advance(members[:3])
    second = engine.advance(members)
    assert engine.stacks() == [6]
    single = alone(Blocks, configs, n=2)
    same([[first[member], second[member]] for member in members[:3]], single[:3])
    same([[second[member]] for member in members[3:]], [curve[:1] for curve in single[3:]])


def test_what_is_lifted_in_one_architecture_is_lifted_in_the_next_and_what_splits_one_splits_no_other() -> None:
    calls: list[bool] = []

    class Two(Blocks):
        def build(self, config: Any) -> nn.Module:
            return nn.Sequential(Block(config), *[nn.Linear(3, 3)] * config["more"])

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            calls.append(len(model) > 1)
            return super().training_step(model, batch) * (1 + self.config["alpha"]) * (1 if len(model) > 1 else 2 ** self.config["n"])

    configs = [{**config, "scale": 1.0 + 0.1 * k, "more": k // 6, "n": k % 2} for k, config in enumerate([*UNREAD, *UNREAD])]
    fused, said, engine = together(Two, configs)
    assert sorted(engine.stacks()) == [3, 3, 6]
    assert [text for text in said if "lifted" in text] == [
        "Two: self.config['alpha'] differs between trials and is lifted: each has its own in the stack.",
        "Two: model.0.scale differs between trials and is lifted: each has its own in the stack.",
    ]
    same(fused, alone(Two, configs))


class Once(Toy):
    """Counts the calls of its hook."""

    calls = 0

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        Once.calls += 1
        return super().training_step(model, batch) * (1 + self.config["alpha"])


def test_what_is_read_is_found_out_before_an_iteration_is_spent_on_it() -> None:
    from torchtune_hp.population.engine import Engine

    from .test_engine import runners

    Engine(strategy="vmap").advance(runners(Once, VALUES))
    # A look at what is read; the read as a tensor; a look at the new stack; four updates; the first, one unlike it and the last alone.
    assert Once.calls == 3 + 4 + 3


def test_what_is_lifted_is_compiled_too() -> None:
    """Slow: it compiles."""
    from torchtune_hp.population.engine import Engine

    from .test_engine import runners

    class Sloped(Smoothing):
        def build(self, config: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(config["slope"]), nn.Linear(8, 3))

    configs = [{"lr": 0.01, "slope": 0.05 * k, "alpha": 0.05 * k} for k in range(9)]
    engine, members = Engine(strategy="compile"), runners(Sloped, configs)
    looks = [engine.advance(members) for _ in range(2)]
    assert engine.stacks() == [9]
    same([[look[member] for look in looks] for member in members], alone(Sloped, configs, n=2))
