"""A class written for Ray Tune runs after its base class was changed, and nothing else.

In Ray it read `class DigitClassifier(tune.Trainable)`. It uses what such classes use: a config with nested entries and
defaults, files in the checkpoint folder, `self.iteration`, `self.trial_name`, `self.logdir`, `done`, keys that Ray would have
filled in, and keyword arguments of `setup`.
"""

import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from torchtune_hp.training.recipe import recipe_of, with_parameters
from torchtune_hp.training.runner import Place
from torchtune_hp.training.trainable import Trainable
from torchtune_hp.trial import Trial


class DigitClassifier(Trainable):
    def setup(self, config, train_set=None, val_set=None):
        hidden, dropout = config["net"]["hidden"], config["net"].get("dropout", 0.0)
        self.model = nn.Sequential(nn.Linear(16, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.get("lr", 0.1), momentum=config.get("momentum", 0.9))
        self.train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
        self.val_loader = DataLoader(val_set, batch_size=64)
        self.log = open(os.path.join(self.logdir, "progress.txt"), "a")

    def step(self):
        self.model.train()
        for x, y in self.train_loader:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
        self.model.eval()
        correct = total = 0
        with torch.no_grad():
            for x, y in self.val_loader:
                correct += (self.model(x).argmax(-1) == y).sum().item()
                total += len(y)
        print(self.trial_name, self.iteration, correct / total, file=self.log)
        return {
            "mean_accuracy": correct / total, "loss": loss, "training_iteration": self.training_iteration + 1, "should_checkpoint": True,
            "done": self.iteration + 1 >= self.config.get("epochs", 100),
        }  # fmt: skip

    def save_checkpoint(self, checkpoint_dir):
        torch.save((self.model.state_dict(), self.optimizer.state_dict()), os.path.join(checkpoint_dir, "model.pt"))
        return checkpoint_dir

    def load_checkpoint(self, checkpoint_dir):
        model, optimizer = torch.load(os.path.join(checkpoint_dir, "model.pt"), weights_only=True)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)

    def reset_config(self, new_config):
        for group in self.optimizer.param_groups:
            group["lr"] = new_config["lr"]
        self.config = new_config
        return True

    def cleanup(self):
        self.log.close()


CONFIG = {"lr": 0.2, "net": {"hidden": 16, "dropout": 0.1}, "epochs": 4}
PLACE = {"max_t": 9, "metrics": ("mean_accuracy",)}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def classifier():
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)       # the first optimizer of a process imports for seconds
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(256) % 4
    x = torch.randn(256, 16, generator=generator) + 1.5 * F.one_hot(y, 16)
    return with_parameters(DigitClassifier, train_set=TensorDataset(x[:192], y[:192]), val_set=TensorDataset(x[192:], y[192:]))


def test_it_learns_to_its_own_end(start, classifier, tmp_path):
    runner = start(classifier, CONFIG, **PLACE)
    looks = [runner.advance() for _ in range(4)]
    assert [look.done for look in looks] == [False, False, False, True]
    assert looks[-1].metrics["mean_accuracy"] > 0.6
    assert set(looks[0].metrics) == {"mean_accuracy", "loss", "training_iteration", "should_checkpoint"}
    assert [look.metrics["training_iteration"] for look in looks] == [1.0, 2.0, 3.0, 4.0]
    runner.close()
    assert runner.trainable.log.closed
    lines = (tmp_path / "000007" / "progress.txt").read_text().splitlines()
    assert len(lines) == 4 and lines[2].startswith("DigitClassifier_000007 2 ")


def test_interrupted_it_gives_the_same_numbers_as_uninterrupted(start, classifier):
    whole = start(classifier, CONFIG, **PLACE)
    expected = [whole.advance() for _ in range(4)]
    first = start(classifier, CONFIG, **PLACE)
    assert [first.advance(), first.advance()] == expected[:2]
    state = first.save()
    first.close()
    second = start(classifier, CONFIG, state=state, step=2, **PLACE)
    assert [second.advance(), second.advance()] == expected[2:]


def test_the_best_is_loaded_with_its_weights(start, classifier):
    runner = start(classifier, CONFIG, **PLACE)
    runner.advance()
    best = recipe_of(classifier).restore(Trial(7, (), CONFIG, 11), Place(), runner.save(), 1)
    assert all(torch.equal(a, b) for a, b in zip(best.model.parameters(), runner.trainable.model.parameters(), strict=True))
    assert best.reset_config({"lr": 0.5}) is True and best.optimizer.param_groups[0]["lr"] == 0.5
    best.cleanup()
