"""The members' dimension by hand: what torch.func.vmap gives, an error where it is not there, and nothing left behind."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._pytree import tree_flatten, tree_map

from torchtune_hp.population.batched import current, mapped, members, outside, own, plain, tree_into
from torchtune_hp.population.keys import keys_of
from torchtune_hp.population.layout import layout_of
from torchtune_hp.population.program import Program, Rows

K, N, IN = 3, 4, 5


def program() -> tuple[Program, Rows]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, IN), nn.BatchNorm1d(IN), nn.Dropout(0.5))
    blocks = layout_of(model, torch.optim.SGD(model.parameters(), lr=0.1)).blocks
    flats = [torch.randn(K, block.width).requires_grad_() for block in blocks]
    return Program(model, blocks), Rows(flats, {name: torch.stack([buffer] * K) for name, buffer in model.named_buffers()}, {}, {}, {})


def run(hook: Any, batch: Any, in_dims: Any, more: Any = None) -> Any:
    made, rows = program()
    return made.run(hook, rows, keys_of(range(K), [0] * K), batch, in_dims, more, training=True)[0]


def test_every_form_of_a_batch_is_taken_as_vmap_takes_it() -> None:
    x = torch.randn(K, N, IN)
    same = [
        run(lambda model, batch: model(batch["x"]), {"x": x}, 0),
        run(lambda model, batch: model(batch["x"]), {"x": x.movedim(0, 1)}, {"x": 1}),
        run(lambda model, batch: model(batch[0]), (x.movedim(0, -1), torch.ones(2)), (-1, None)),
        run(lambda model, batch, more: model(more["x"]), torch.ones(2), None, {"x": x}),
    ]
    assert all(torch.equal(found, same[0]) for found in same)
    shared = run(lambda model, batch: {"a": model(batch), "b": batch.sum()}, x[0], None)
    assert shared["a"].shape == (K, N, IN) and torch.equal(shared["b"], x[0].sum().expand(K))


@pytest.mark.parametrize(("batch", "in_dims"), [(torch.ones(K + 1, 2), 0), (torch.ones(K), 1), (torch.tensor(1.0), 0), (3.0, 0)])
def test_a_batch_without_the_members_dimension_is_refused(batch: Any, in_dims: int) -> None:
    with pytest.raises(ValueError, match=f"in_dims: dimension {in_dims} must be that of the 3 members"):
        run(lambda model, batch: batch, batch, in_dims)


def test_containers_of_every_kind_are_kept_and_are_the_members_own() -> None:
    class Pair(NamedTuple):
        x: Tensor
        y: Any

    tree = {"a": [torch.ones(2), (torch.zeros(3), None)], "b": Pair(torch.ones(1), 3.0), "c": OrderedDict(d=torch.ones(4)), "e": ()}
    double = partial(tree_map, lambda leaf: leaf * 2 if isinstance(leaf, Tensor) else leaf)
    made = mapped(lambda leaf: leaf * 2 if isinstance(leaf, Tensor) else leaf, tree)
    assert tree_flatten(made)[1] == tree_flatten(double(tree))[1] and type(made["b"]) is Pair
    assert all(map(equal, tree_flatten(made)[0], tree_flatten(double(tree))[0]))
    batch = {"x": torch.ones(2)}
    run(lambda model, given: given.pop("x"), batch, None)
    assert list(batch) == ["x"]


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def test_modules_stand_in_the_mode_of_the_call_whatever_the_one_before_left() -> None:
    made, rows = program()
    seen: list[list[bool]] = []

    def hook(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append([module.training for module in model.modules()])
        model[1].eval()  # type: ignore[index]
        return batch.sum()

    for training in (True, True, False, True):
        made.run(hook, rows, torch.arange(K), torch.ones(2), None, None, training)
    assert seen == [[True] * 4, [True] * 4, [False] * 4, [True] * 4]


def test_a_models_own_train_is_called_each_time() -> None:
    called: list[bool] = []

    class Frozen(nn.Linear):
        def train(self, mode: bool = True) -> Frozen:
            called.append(mode)
            return super().train(False)

    model = nn.Sequential(Frozen(IN, IN))
    made, called[:] = Program(model, layout_of(model, torch.optim.SGD(model.parameters(), lr=0.1)).blocks), []
    rows = Rows([torch.randn(K, IN * IN + IN)], {}, {}, {}, {})
    for training in (True, True, False):
        made.run(lambda model, batch: model(batch), rows, torch.arange(K), torch.ones(2, IN), None, None, training)
        assert not made.model[0].training  # type: ignore[index]
    assert called == [True, True, False]


def test_what_a_hook_gives_must_be_tensors() -> None:
    with pytest.raises(ValueError, match=r"must be tensors, but it gave a float"):
        run(lambda model, batch: {"loss": 3.0}, torch.ones(2), None)


def test_the_level_is_left_whatever_is_raised_in_it() -> None:
    for block in (members(K), members(K)):
        with pytest.raises(KeyError), block, outside():
            raise KeyError
        assert torch._C._functorch.maybe_current_level() is None
    with members(K) as level, outside():
        assert torch._C._functorch.maybe_current_level() is None
    assert level == 1


def test_a_tensor_is_a_members_own_at_one_level_only() -> None:
    x = torch.randn(K, N)
    seen: list[Any] = []

    def squared(part: Tensor, other: Tensor) -> Tensor:
        seen.append((current(part), current(other)))
        return (part * other).sum()

    with members(K) as level:
        mine = own(x, level)
        assert current(mine) == level == 1 and current(x) is None and plain(mine, level) is x
        assert torch.equal(plain(own(x, level, 1), level), x.T)
        assert tree_into([x, 3], [0, None], level, K)[1] == 3
        vmap(squared, in_dims=(0, None))(mine, mine.sum())
        grad(squared)(mine, mine)
    assert seen == [(2, None), (None, None)] and current(mine) is None


def test_linear_layers_under_a_vmap_of_the_callers_are_torchs() -> None:
    made, rows = program()
    x = torch.randn(2, N, IN)

    def losses(x: Tensor) -> Tensor:
        found, _ = made.run(lambda model, batch: model[0](batch).sum(), rows, torch.arange(K), x, None, None, training=True)
        assert isinstance(found, Tensor)
        return found

    torch.testing.assert_close(vmap(losses)(x), torch.stack([losses(each) for each in x]))
