"""Members that differ in widths share a stack, and compute what they compute alone; what mixes along a width is not padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import DivergedError
from torchtune_hp.population import padding
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.keys import keys_of
from torchtune_hp.population.loop import Loop
from torchtune_hp.population.randomness import own_randomness
from torchtune_hp.population.speeds import Speeds
from torchtune_hp.population.stack import Stack

from .test_engine import Toy, alone, runners, together

FLOAT64 = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 6, generator=GENERATOR, dtype=FLOAT64)
IMAGES = torch.randn(32, 2, 8, 8, generator=GENERATOR, dtype=FLOAT64)
Y = torch.arange(64) % 3
WIDTHS = (5, 16, 9, 12)


def mlp(width: int, act: Callable[[], nn.Module] = nn.ReLU, p: float = 0.0, norm: bool = False) -> nn.Module:
    second = width // 2 + 3
    layers = [
        nn.Linear(6, width), *([nn.BatchNorm1d(width)] if norm else []), act(), nn.Dropout(p), nn.Linear(width, second), act(),
        nn.Linear(second, 3),
    ]  # fmt: skip
    return nn.Sequential(*layers).double()


def cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.Sigmoid(), nn.MaxPool2d(2), nn.Dropout2d(0.2),
        nn.Conv2d(width, 2 * width, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(2 * width * 4, width), nn.Tanh(),
        nn.Linear(width, 3),
    ).double()  # fmt: skip


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def pairs(build: Callable[[int], nn.Module], kind: Any = torch.optim.AdamW, **options: Any) -> list[Any]:
    members = []
    for k, width in enumerate(WIDTHS):
        torch.manual_seed(k)
        model = build(width)
        members.append((model, kind(model.parameters(), lr=0.003 * (k + 1), **options)))
    return members


def compare(build: Callable[[int], nn.Module], batch: Any, kind: Any = torch.optim.AdamW, steps: int = 50, bound: float = 1e-10,
            clip: float | None = None, **options: Any) -> Stack:  # fmt: skip
    """Trained padded and one by one, members agree in losses, parameters and buffers."""
    stack, loop = Stack(pairs(build, kind, **options)), Loop(pairs(build, kind, **options))
    clips = None if clip is None else torch.full((len(WIDTHS),), clip)
    for step in range(steps):
        keys = keys_of(range(len(WIDTHS)), [step] * len(WIDTHS))
        one, other = (each.step(loss, batch, None, keys, clips)[0] for each in (stack, loop))
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)
    for row, (model, optimizer) in enumerate(loop.members):
        made, its = stack.dump(row)
        for ours, theirs in zip((*made.parameters(), *made.buffers()), (*model.parameters(), *model.buffers()), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)
        states = (its.state_dict()["state"], optimizer.state_dict()["state"])
        assert [{name: torch.as_tensor(value).shape for name, value in each.items()} for each in states[0].values()] == [
            {name: torch.as_tensor(value).shape for name, value in each.items()} for each in states[1].values()
        ]
    return stack


# Widths -----------------------------------------------------------------------------------------------------------------------


def test_a_width_is_what_one_layer_gives_and_a_later_one_takes() -> None:
    found = padding.widths(mlp(9, norm=True))
    assert {place: tuple(width) for place, width in found.items()} == {
        ("0", "out_features"): (9, 1), ("1", "num_features"): (9, 1), ("4", "in_features"): (9, 1), ("4", "out_features"): (7, 1),
        ("6", "in_features"): (7, 1),
    }  # fmt: skip
    flat = padding.widths(cnn(5))
    assert flat["9", "in_features"] == (10, 4) and flat["5", "out_channels"] == (10, 1) and ("0", "in_channels") not in flat


def test_inputs_and_outputs_are_no_widths() -> None:
    assert padding.widths(nn.Linear(4, 4)) == {}
    assert padding.widths(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3), nn.BatchNorm1d(3))) == {}


@pytest.mark.parametrize("layer", [nn.LayerNorm(9), nn.GroupNorm(3, 9), nn.PReLU(9), nn.Conv1d(9, 9, 1, groups=3)])
def test_another_layer_with_a_width_in_its_tensors_is_an_obstacle(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(6, 9), layer, nn.Linear(9, 3))
    assert padding.widths(model) == {} and padding.obstacle(model) == f"{type(layer).__name__} (1)"
    other = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 9), nn.PReLU(), nn.Linear(9, 3))
    assert set(padding.widths(other)) == {("0", "embedding_dim"), ("1", "in_features"), ("1", "out_features"), ("3", "in_features")}


class Words(nn.Module):
    """Two embeddings, added; `width` is that of both."""

    def __init__(self, width: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, width, padding_idx), nn.Embedding(5, width)
        self.first, self.last = nn.Linear(width, 2 * width), nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.words(x) + self.places(torch.arange(x.shape[-1], device=x.device))
        return self.last(self.first(found).relu()).mean(-2)  # type: ignore[no-any-return]


def test_what_an_embedding_gives_is_a_width_and_how_many_it_has_is_none() -> None:
    assert set(padding.widths(Words(9))) == {
        ("words", "embedding_dim"), ("places", "embedding_dim"), ("first", "in_features"), ("first", "out_features"),
        ("last", "in_features"),
    }  # fmt: skip
    assert padding.widths(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))) == {}   # units of places
    assert padding.obstacle(nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 8), nn.Linear(8, 3))) == ""
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    tied[2].weight = tied[0].weight
    assert padding.widths(tied) == {}


@pytest.mark.parametrize("padding_idx", [None, 0, 3])
def test_embeddings_are_padded(padding_idx: int | None) -> None:
    tokens = torch.randint(0, 11, (64, 5), generator=torch.Generator().manual_seed(0))
    assert compare(lambda width: Words(width, padding_idx).double(), (tokens, Y), weight_decay=0.1, steps=20).outside


def test_an_embedding_that_is_scaled_to_a_norm_is_not_padded() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 8), nn.Linear(8, 3))
    assert set(padding.widths(model)) == {("1", "out_features"), ("2", "in_features")}


def test_tied_parameters_are_an_obstacle() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 3))
    model[2].weight = model[1].weight
    assert padding.widths(model) == {}


def test_the_shapes_of_a_stack_are_its_members_own_where_they_agree_and_powers_of_two_where_they_do_not() -> None:
    def shapes(*members: nn.Module) -> list[tuple[int, ...]]:
        stack = Stack([(model, torch.optim.SGD(model.parameters())) for model in members])
        return [tuple(shape) for shape in stack.layout.blocks[0].shapes]

    assert shapes(mlp(9), mlp(9)) == [(9, 6), (9,), (7, 9), (7,), (3, 7), (3,)]
    assert shapes(mlp(9), mlp(5)) == [(16, 6), (16,), (8, 16), (8,), (3, 8), (3,)]
    assert shapes(mlp(8), mlp(9)) == [(16, 6), (16,), (7, 16), (7,), (3, 7), (3,)]


# Equal to alone ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus])
def test_padded_is_equal_to_alone(act: Any) -> None:
    stack = compare(lambda width: mlp(width, act), (X, Y), weight_decay=0.1)
    assert stack.outside and all(not flat[stack.outside[number]].any() for number, flat in enumerate(stack.flats))


OPTIMIZERS: Sequence[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}), (torch.optim.SGD, {}),
    (torch.optim.Adam, {"amsgrad": True}), (torch.optim.AdamW, {"maximize": False}), (torch.optim.NAdam, {}), (torch.optim.RAdam, {}),
    (torch.optim.Adamax, {}), (torch.optim.Adagrad, {"initial_accumulator_value": 0.1, "lr_decay": 0.01}), (torch.optim.Adadelta, {}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_under_every_optimizer(kind: Any, options: dict[str, Any]) -> None:
    stack = compare(lambda width: mlp(width, nn.Sigmoid), (X, Y), kind, clip=0.05, **options)
    assert all(not flat[stack.outside[number]].any() for number, flat in enumerate(stack.flats))


def test_with_dropout_it_drops_the_units_that_it_drops_alone() -> None:
    compare(lambda width: mlp(width, p=0.4), (X, Y))


def test_with_batch_norm() -> None:
    compare(lambda width: mlp(width, nn.Tanh, norm=True), (X, Y), steps=20, bound=1e-9)


def test_convolutions_that_are_flattened() -> None:
    compare(cnn, (IMAGES, Y[:32]), steps=20, bound=1e-8)


def test_compiled() -> None:
    """Slow: it compiles."""

    def members() -> list[Any]:
        found = []
        for k in range(9):      # fewer are not compiled
            torch.manual_seed(k)
            model = mlp(5 + k, nn.Sigmoid, 0.3, norm=True)
            found.append((model, torch.optim.AdamW(model.parameters(), lr=0.01)))
        return found

    stack, loop = Stack(members(), compiled=True), Loop(members())
    for step in range(3):
        keys = keys_of(range(9), [step] * 9)
        pair = [each.step(loss, (X, Y), None, keys, torch.full((9,), 0.5))[0] for each in (stack, loop)]
        torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-10)


def test_a_dropped_unit_depends_on_its_coordinates_alone() -> None:
    def dropped(*shape: int, layer: Any = F.dropout) -> Tensor:
        with own_randomness(torch.tensor(7)):
            found: Tensor = layer(torch.ones(shape), 0.4)
        return found

    assert torch.equal(dropped(8, 12)[:, :5], dropped(8, 5)) and torch.equal(dropped(9, 8, 12)[:3, :, :5], dropped(3, 8, 5))
    assert torch.equal(dropped(4, 9, 2, 2, layer=F.dropout2d)[:, :5], dropped(4, 5, 2, 2, layer=F.dropout2d))
    assert torch.equal(dropped(4, 9, 2, 3)[:, :5], dropped(4, 5, 2, 3))
    assert torch.equal(dropped(2, 1, 3, 4, 2, 3, 6)[..., :5], dropped(2, 1, 3, 4, 2, 3, 5))


# Rows -------------------------------------------------------------------------------------------------------------------------


def trained(build: Callable[[int], nn.Module] = mlp, steps: int = 3, **options: Any) -> Stack:
    stack = Stack(pairs(build, **options))
    for step in range(steps):
        stack.step(loss, (X, Y), None, keys_of(range(len(stack)), [step] * len(stack)))
    return stack


def contents(stack: Stack, row: int) -> list[Tensor]:
    model, optimizer = stack.dump(row)
    states = [part for state in optimizer.state.values() for part in state.values()]
    return [part.detach().clone() for part in (*model.parameters(), *model.buffers(), *states)]


def test_a_row_that_is_written_back_and_read_again_is_the_same() -> None:
    stack = trained(lambda width: mlp(width, norm=True))
    before = [flat.detach().clone() for flat in stack.flats], [dict(state) for state in stack.states]
    for row in range(len(stack)):
        one = contents(stack, row)
        stack.load(row)
        assert all(map(torch.equal, one, contents(stack, row)))
    assert all(map(torch.equal, before[0], stack.flats))
    anew = Stack(stack.members)
    assert all(map(torch.equal, anew.flats, stack.flats)) and all(torch.equal(anew.outside[0], part) for part in stack.outside.values())


def test_members_join_and_leave_a_padded_stack() -> None:
    stack, rest = trained(steps=2), pairs(mlp)
    one = contents(stack, 1)
    stack.take_out([0])
    stack.add([rest[0]])
    stack.replace([1], [rest[2]])
    assert all(map(torch.equal, one, contents(stack, 0)))
    loop = Loop(pairs(mlp)[2:3])
    for step in range(3):
        keys = keys_of([5] * 4, [step] * 4)
        found, _ = stack.step(loss, (X, Y), None, keys)
        torch.testing.assert_close(found[1:2], loop.step(loss, (X, Y), None, keys[:1])[0], rtol=1e-10, atol=1e-10)


def test_members_of_a_stack_that_was_none_of_widths_may_be_narrower() -> None:
    wide, narrow = pairs(mlp)[1], pairs(mlp)[0]
    stack, loop = Stack([wide]), Loop([pairs(mlp)[1], pairs(mlp)[0]])
    assert not stack.outside and stack.holds(narrow[0])
    stack.add([narrow])
    for step in range(3):
        keys = keys_of([1, 2], [step] * 2)
        pair = [each.step(loss, (X, Y), None, keys)[0] for each in (stack, loop)]
        torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-10)


def test_a_nan_member_leaves_its_neighbours_bit_identical() -> None:
    def run(ill: bool) -> list[Tensor]:
        members = pairs(lambda width: mlp(width, nn.Sigmoid, norm=True))
        if ill:
            with torch.no_grad():
                members[0][0][0].weight.fill_(torch.nan)
        stack = Stack(members)
        for step in range(5):
            stack.step(loss, (X, Y), None, keys_of(range(4), [step] * 4), torch.full((4,), 0.5))
        assert bool(stack.flats[0][0].isnan().any()) == ill
        return [part for row in (1, 2, 3) for part in contents(stack, row)]

    assert all(map(torch.equal, run(False), run(True)))


def test_frozen_layers_are_padded_too() -> None:
    def build(width: int) -> nn.Module:
        model = mlp(width, nn.Tanh)
        model[0].requires_grad_(False)
        return model

    compare(build, (X, Y), steps=5)


# The engine -------------------------------------------------------------------------------------------------------------------

CONFIGS = [{"width": width, "lr": 0.003 * (1 + k), "p": 0.1 * (k % 3)} for k, width in enumerate((5, 16, 9, 40, 12, 33))]


def looks_alike(cls: type[hp.ModelTrainable], configs: Any = CONFIGS, n: int = 3) -> tuple[list[int], list[str]]:
    """Sizes of stacks, and what was said, of trials that give the looks that each gives alone."""
    found, said, engine = together(cls, configs, n)
    for ours, theirs in zip(found, alone(cls, configs, n), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.metrics == pytest.approx(other.metrics, rel=1e-9, abs=1e-12)
    return sorted(engine.stacks()), said


def test_trials_of_all_small_widths_are_one_stack() -> None:
    sizes, said = looks_alike(Toy)
    assert sizes == [6] and said == ["Toy: widths are padded to 64: 6 trials of different ones share a stack."]


def test_trials_of_larger_widths_are_a_stack_for_each_power_of_two() -> None:
    sizes, _ = looks_alike(Toy, [{"width": width} for width in (5, 64, 500, 1030, 1100, 2048)], n=2)
    assert sizes == [3, 3]


def test_running_statistics_are_each_trial_s_own() -> None:
    class Normal(Toy):
        def build(self, config: Any) -> nn.Module:
            return mlp(config["width"], nn.Tanh, config["p"], norm=True)

    sizes, said = looks_alike(Normal)
    assert sizes == [6] and len(said) == 1


def test_a_trial_that_is_not_finite_says_nothing_against_padding() -> None:
    class Ill(Toy):
        def build(self, config: Any) -> nn.Module:
            model = super().build(config)
            if config["width"] == 9:
                nn.init.constant_(model[0].weight, torch.nan)       # type: ignore[index]
            return model

    found, said, engine = together(Ill, CONFIGS, 1)
    assert isinstance(found[2][0], DivergedError) and engine.stacks() == [6] and "are padded to 64" in said[0]
    for k, runner in enumerate(runners(Ill, CONFIGS)):
        if k != 2:
            assert found[k][0].metrics == pytest.approx(runner.advance().metrics, rel=1e-9)


def test_where_padding_loses_trials_are_stacked_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speeds, "loses", lambda self, k: "6 at once take long" if k == 6 else None)
    said: list[str] = []
    engine, members = Engine(lambda kind, text: said.append(text)), runners(Toy, [{"width": 8 + 8 * (k % 2)} for k in range(6)])
    for _ in range(2):
        engine.advance(members)
    assert sorted(engine.stacks()) == [3, 3]
    assert "Toy: widths are not padded, so there is a stack for each: padded, 6 at once take long." in said


class Hidden(Toy):
    """Mixes along its hidden layer."""

    def build(self, config: Any) -> nn.Module:
        return Mixer(config["width"], type(self).mix)

    @staticmethod
    def mix(h: Tensor) -> Tensor:
        raise NotImplementedError


class Mixer(nn.Module):
    def __init__(self, width: int, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, width), nn.Linear(width, 3)
        self.mix = mix
        nn.init.zeros_(self.two.weight)     # nothing of the hidden layer shows at the start

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(self.mix(self.one(x)))
        return found


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda h: h.softmax(-1), "mean": lambda h: h - h.mean(-1, keepdim=True), "maximum": lambda h: h / h.amax(-1, keepdim=True),
    "layer norm": lambda h: F.layer_norm(h, h.shape[-1:]), "halves": lambda h: torch.cat(h.chunk(2, -1)[::-1], -1),
    "noise": lambda h: h + 0.1 * torch.randn_like(h),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_along_a_width_splits_and_is_said(name: str) -> None:
    cls = type(name, (Hidden,), {"mix": staticmethod(MIXES[name])})
    sizes, said = looks_alike(cls, [{"width": width} for width in (8, 8, 8, 16, 16, 16)])
    assert sizes == [3, 3]
    assert said[0].startswith(f"{name}: widths are not padded, so there is a stack for each: ") and "differs" in said[0]


def test_a_layer_that_has_a_width_splits_and_is_named() -> None:
    class Normed(Toy):
        def build(self, config: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(6, config["width"]), nn.LayerNorm(config["width"]), nn.ReLU(), nn.Linear(config["width"], 3))

    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "vmap")
    engine.advance(runners(Normed, [{"width": width} for width in (8, 8, 8, 16, 16, 16)]))
    assert sorted(engine.stacks()) == [3, 3] and said[1].endswith("Widths are not padded where there is a LayerNorm (1).")


def test_metrics_as_wide_as_a_layer_split() -> None:
    class Features(Toy):
        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            return {**super().validation_step(model, batch), "h": model[:2](batch[0])}  # type: ignore[index]

        def validation_end(self, gathered: Any) -> Any:
            return {"h": gathered["h"].mean()}

    sizes, said = looks_alike(Features, [{"width": width} for width in (8, 8, 8, 16, 16, 16)])
    assert sizes == [3, 3] and "the metric h is (" in said[0]


def test_a_width_that_hooks_read_splits() -> None:
    class Scaled(Toy):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return super().training_step(model, batch) / self.config["width"]

    sizes, said = looks_alike(Scaled, [{"width": width} for width in (8, 8, 8, 16, 16, 16)])
    assert sizes == [3, 3] and "the hooks read self.config['width']" in said[0]


def test_an_optimizer_without_eps_is_not_padded() -> None:
    class Bare(Toy):
        def build(self, config: Any) -> nn.Module:
            return mlp(config["width"], nn.Tanh)

        def optimize(self, config: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.model.parameters(), eps=0.0)

    sizes, _ = looks_alike(Bare, [{"width": width} for width in (8, 8, 8, 16, 16, 16)], n=1)
    assert sizes == [3, 3]


def test_wider_trials_that_come_later_join_in_a_wider_stack() -> None:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "vmap")
    members, lonely = runners(Toy, CONFIGS), runners(Toy, CONFIGS)
    going = [members[0], members[2], members[4]]
    for _ in range(2):
        engine.advance(going)
    engine.leave(members[2])
    going = [members[0], members[4], members[1], members[3], members[5]]
    looks = engine.advance(going)
    for runner, own in zip(members, lonely):
        if runner not in going:
            continue
        for _ in range(runner.step):
            look = own.advance()
        assert looks[runner].metrics == pytest.approx(look.metrics, rel=1e-9)      # type: ignore[union-attr]
    assert engine.stacks() == [5]
    assert [text for text in said if "padded" in text] == [
        "Toy: widths are padded to 16: 3 trials of different ones share a stack.",
        "Toy: widths are padded to 64: 5 trials of different ones share a stack.",
    ]


def test_a_study_over_a_width_is_the_one_that_serial_gives() -> None:
    space = {"width": hp.lograndint(8, 64), "lr": hp.loguniform(1e-3, 1e-1), "p": hp.uniform(0.0, 0.5)}

    def study(executor: Any) -> Any:
        return hp.Tuner(
            Toy, space, metric="loss", mode="min", trials=12, searcher=hp.RandomSearch(), scheduler=hp.FullRuns(max_t=3), executor=executor,
            storage=None, verbose=0,
        ).fit()  # fmt: skip

    fused, serial = study(hp.Fused(slots=6, strategy="vmap")), study(hp.Serial())
    assert fused.members_per_stack.startswith("6 trials per stack") and len(fused) == len(serial) == 12
    for one, other in zip(sorted(fused, key=lambda each: each.config["lr"]), sorted(serial, key=lambda each: each.config["lr"])):
        assert one.config == other.config
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-8)
        assert one.metrics["accuracy"] == other.metrics["accuracy"]
    assert any("widths are padded to 64" in str(note) for note in fused.log)
