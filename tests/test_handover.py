"""What becomes of a study's best models: an ensemble, and files that others load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import CheckpointError, ConfigurationError
from torchtune_hp.handover import write

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
SPACE = {"lr": hp.loguniform(1e-3, 1e-1), "width": hp.choice([4, 8])}


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, width), nn.BatchNorm1d(width), nn.Linear(width, 2)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor, *, shift: Tensor | None = None, scale: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x * scale).relu()))) + (0 if shift is None else shift)


class Signs(hp.ModelTrainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.model = Net(config["width"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data(train=(X, Y), val_fraction=0.4, batch_size=8)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0], scale=torch.ones(6)), batch[1])

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(model(batch[0], scale=torch.ones(6)), batch[1])}


def study(trials: int = 12, **options: Any) -> hp.Results:
    options = {"keep": 8, "executor": hp.Fused(8), "storage": None, "seed": 1, **options}
    searcher, stop = hp.RandomSearch(), hp.MaxSteps(2)
    return hp.tune(Signs, SPACE, metric="loss", mode="min", trials=trials, stop=stop, searcher=searcher, verbose=0, **options)


@pytest.fixture(scope="module")
def results() -> hp.Results:
    return study()


def alone(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model(x, scale=torch.ones(6))


def test_the_best_models_predict_as_an_ensemble_whatever_their_widths(results: hp.Results) -> None:
    models = results.top(8).load()
    assert len({model.first.out_features for model in models}) == 2
    found = hp.Population(models).evaluate(lambda model, x: model(x, scale=torch.ones(6)), X)
    torch.testing.assert_close(found, torch.stack([alone(model) for model in models]), rtol=1e-5, atol=1e-6)


def test_what_was_chosen_is_a_list_in_order(results: hp.Results) -> None:
    assert [result.trial for result in results.top(3)] == [result.trial for result in results.top(5)][:3]
    assert [result.trial for result in results[2:4]] == [2, 3]
    assert len(results.pareto.load()) == 1
    with pytest.raises(CheckpointError, match="`keep=k`"):
        results.top(9).load()


def test_a_state_dict_of_torch_and_one_of_safetensors(results: hp.Results, tmp_path: Path) -> None:
    model, width = results.best.load(), results.best.config["width"]
    for name in ("best.pt", "deep/best.safetensors"):
        (file,) = results.best.export(tmp_path / name)
        assert file == tmp_path / name
        again = Net(width)
        if file.suffix == ".pt":
            again.load_state_dict(torch.load(file, weights_only=True))
        else:
            safetensors.torch.load_model(again, str(file))
        assert torch.equal(alone(again.eval()), alone(model))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["best.pt", "best.safetensors", "deep"]


def test_onnx_runs_elsewhere_on_batches_of_any_size(results: hp.Results, tmp_path: Path) -> None:
    results.best.export(tmp_path / "best.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx")
    for size in (1, 7, 60):
        (found,) = session.run(None, {"x": X[:size].numpy(), "scale": torch.ones(6).numpy()})
        torch.testing.assert_close(torch.as_tensor(found), alone(results.best.load(), X[:size]), rtol=1e-5, atol=1e-5)


def test_what_is_passed_by_name_may_come_in_any_order(results: hp.Results, tmp_path: Path) -> None:
    model = results.best.load()
    write([model], tmp_path / "model.onnx", lambda: ((X,), {"scale": torch.ones(6), "shift": torch.ones(60, 1)}))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"x": X[:7].numpy(), "scale": torch.ones(6).numpy(), "shift": 2 * torch.ones(7, 1).numpy()})
    torch.testing.assert_close(torch.as_tensor(found), alone(model, X[:7]) + 2, rtol=1e-5, atol=1e-5)


def test_replicas_are_a_file_each_and_an_ensemble_together(tmp_path: Path) -> None:
    twice = study(trials=2, keep=2, seeds=2)
    files = twice.best.export(tmp_path / "best.pt")
    assert [file.name for file in files] == ["best-0.pt", "best-1.pt"]
    models = twice.best.load()
    assert all(torch.equal(torch.load(file)["last.weight"], model.last.weight) for file, model in zip(files, models))
    assert len(twice.top(2).load()) == 4
    assert twice.best.export(tmp_path / "best.onnx") == [tmp_path / "best-0.onnx", tmp_path / "best-1.onnx"]


def test_a_function_s_checkpoint_is_written_if_it_is_tensors_by_name(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        state = nn.Linear(2, 2).state_dict()
        hp.report(loss=1.0, checkpoint=state if config["plain"] else {"model": state})

    for plain in (True, False):
        space = {"plain": hp.choice([plain])}
        found = hp.tune(train, space, metric="loss", mode="min", trials=1, executor=hp.Serial(), storage=None, verbose=0)
        if not plain:
            with pytest.raises(ConfigurationError, match="holds 'model', which is none"):
                found.best.export(tmp_path / "other.pt")
            continue
        (file,) = found.best.export(tmp_path / "best.safetensors")
        assert set(safetensors.torch.load_file(file)) == {"weight", "bias"}
        with pytest.raises(ConfigurationError, match="needs an nn.Module"):
            found.best.export(tmp_path / "best.onnx")


def test_mistakes_are_named_and_leave_nothing(results: hp.Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"one of .pt, .safetensors, .onnx, but got '.*best.h5'"):
        results.best.export(tmp_path / "best.h5")
    with pytest.raises(TypeError):
        results.best.export(tmp_path / "best.onnx", inputs=(X, X, X))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torchtune-hp\[export\]'"):
        results.best.export(tmp_path / "best.safetensors")
    assert list(tmp_path.iterdir()) == []
