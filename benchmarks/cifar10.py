"""CIFAR-10, whole: ASHA's two published tasks and a small ResNet, tuned with ASHA as stacks.

    convnet      cuda-convnet, 8 hyperparameters, one shape, batches of 100: fuses whole (Li et al., ASHA, MLSys 2020)
    small-cnn    the small CNN architecture task of the same paper, 10 hyperparameters, 48 shapes x 4 batch sizes: hostile to fusing
    resnet       a ResNet-20 with one-cycle SGD, label smoothing, crop, flip and cutout; 5 hyperparameters, one shape

The two published tasks have R = 30,000 updates and the smallest budget R / 256, that is 256 units of 117 updates; the ResNet has 64
epochs. Everything is trained from uint8 images on the device, 40,000 to train on, 10,000 to choose by; the test set is met by the
best configuration alone, at the end. Random search, ASHA with eta 4.

Printed: the best validation error so far against epochs and wall time; how trials ended (with learning rates up to 10, many
diverge: that is part of the tasks, and costs their first unit); the best configuration with its test error; the stacks there
were; and how long the same trials would take one after another. That last figure is extrapolated, and said to be: units of budget are
drawn at random from all that the study spent, each is trained and validated by a plain PyTorch loop with its trial's configuration
from fresh weights, and their mean time, with its standard error, is multiplied by the number of units. Setting models up is left out.
On a CPU the loop has as many threads as torch takes, and the study those that hp.Fused gives it.

The claim would be false if the loop did other work than the study (it uses the task's own model, optimizer, schedule, loss and
batches), or if the sample were taken under another load than the study: on a shared machine the ratio is a hint, not a result.

--data takes an image folder, with `train` and `test` folders of classes in it, or classes alone (then there is no test error). Images
are resized to 32 x 32. Without it, torchvision downloads CIFAR-10, where there is a network. Errors on images that were compressed
again (JPEG) are not comparable with published ones. The quick form shows that everything works, and nothing about quality: 1,000
images, at most 16 units of a few updates, at most 75 seconds of study.

    python benchmarks/cifar10.py [--quick] [--task convnet,small-cnn,resnet] [--data FOLDER] [--trials 256] [--max-t 256] [--slots 128]
                                 [--images N] [--device cuda] [--seed 0] [--storage DIR] [--results DIR]
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
from cifar10_tasks import Convnet, NoData, Pictures, ResNet, SmallCNN, sets
from torch import Tensor

import torchtune_hp as hp
from torchtune_hp.training.data import Loaded
from torchtune_hp.training.made import made_of

ETA = 4
NOTES = 10
"""Lines about stacks that are printed."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    `unit`: updates in one unit of budget, or "epoch"; `most`: images to train on; `seconds`: of the study; `sample`: units that are
    trained one after another.
    """

    trials: int
    max_t: int
    unit: Any
    slots: Any = "auto"
    most: int | None = None
    seconds: float | None = None
    sample: int = 16


TASKS: dict[str, tuple[type[Pictures], Size, Size]] = {
    "convnet": (Convnet, Size(256, 256, 117), Size(32, 16, 4, 8, 1000, 75.0, 4)),
    "small-cnn": (SmallCNN, Size(256, 256, 117), Size(8, 4, 1, 4, 1000, 75.0, 3)),
    "resnet": (ResNet, Size(128, 64, "epoch"), Size(16, 16, 4, 8, 1000, 75.0, 4)),
}
"""The full form, and the quick one."""


# A study, and its trials one after another ------------------------------------------------------------------------------------


@dataclass
class Run:
    """A task on some images, on a device."""

    name: str
    size: Size
    data: str | None
    device: torch.device
    seed: int

    def __post_init__(self) -> None:
        base = TASKS[self.name][0]
        words: dict[str, Any] = {"iteration": self.size.unit}
        if base is ResNet and self.size.most is not None:
            words["shape"] = (8, 1)
        self.cls = type(base.__name__, (base,), words)
        train, test = sets(self.data)
        self.classes, self.tested = len(train.classes), test is not None
        self.given = {"data": self.data, "most": self.size.most}

    def loaded(self) -> Loaded:
        return made_of(self.cls, self.given, self.device).whole("")

    def study(self, storage: str) -> hp.Results:
        return hp.tune(
            hp.with_parameters(self.cls, classes=self.classes, **self.given), self.cls.space, metric="error", mode="min",
            trials=self.size.trials, time_budget=self.size.seconds, searcher=hp.RandomSearch(),
            scheduler=hp.ASHA(max_t=self.size.max_t, reduction_factor=ETA), executor=hp.Fused(self.size.slots, str(self.device)),
            seed=self.seed, storage=storage, name=f"cifar10-{self.name}",
        )  # fmt: skip

    def alone(self, config: Mapping[str, Any]) -> float:
        """Seconds of one unit by an ordinary loop: its updates, and a validation."""
        data, task = self.loaded(), self.cls()
        x, y = data.train.tree      # type: ignore[union-attr]
        size = config.get("batch_size") or data.batch_size
        updates = self.cls.unit(len(x) // size)
        model, optimizer, scheduler = self.cls.parts(config, self.classes, self.size.max_t * updates)
        model.to(self.device)
        self._wait()
        began = time.perf_counter()
        rows: list[Tensor] = []
        for _ in range(updates):
            if not rows:
                rows = [part for part in torch.randperm(len(x)).to(self.device).split(size) if len(part) == size]  # type: ignore[no-untyped-call]
            index = rows.pop()
            optimizer.zero_grad()
            task.training_step(model, task.augment((x[index], y[index]))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            errors = [task.validation_step(model, batch)["error"] * n for batch, n in data.val[""].batches(data.batch_size)]
            torch.stack(errors).sum().item()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def epochs(self, config: Mapping[str, Any]) -> float:
        """Passes over the training set in one unit."""
        data = self.loaded()
        n, size = data.train.size, config.get("batch_size") or data.batch_size      # type: ignore[union-attr]
        return self.cls.unit(n // size) * size / n


@dataclass(frozen=True)
class Spent:
    """What a study had spent when a report came. `error`: the best so far."""

    epochs: float
    seconds: float
    error: float


def curve(run: Run, results: hp.Results) -> list[Spent]:
    found: list[Spent] = []
    each = {result.trial: run.epochs(result.config) for result in results}
    spent, best = 0.0, math.nan
    for trial, error, seconds in results.journal.rows("SELECT trial, value, time FROM report ORDER BY id"):
        spent += each[trial]
        if error is not None and not error >= best:
            best = error
        found.append(Spent(spent, seconds, best))
    return found


def units(results: hp.Results) -> Counter[int]:
    """How many units each trial was given, those in which it failed included."""
    found: Counter[int] = Counter()
    for trial, step in results.journal.rows("SELECT trial, step FROM report UNION SELECT trial, step FROM failure"):
        found[trial] = max(found[trial], step)
    return found


def one_after_another(run: Run, results: hp.Results) -> dict[str, Any]:
    """Seconds that the study's trials would take, from a sample of their units."""
    spent = units(results)
    generator = torch.Generator().manual_seed(run.seed)
    n = max(2, min(run.size.sample, sum(spent.values())))       # two, for a standard error
    drawn = torch.multinomial(torch.tensor(list(spent.values()), dtype=torch.float64), n, True, generator=generator)
    trials = [list(spent)[k] for k in drawn.tolist()]
    run.alone(results[trials[0]].config)        # whatever the first call of each kernel costs
    times = [run.alone(results[trial].config) for trial in trials]
    total = sum(spent.values())
    error = statistics.stdev(times) / len(times) ** 0.5
    return {"units": total, "sample": len(times), "s_a_unit": times, "s": total * statistics.mean(times), "standard_error_s": total * error}


def measure(run: Run, storage: str | None) -> dict[str, Any]:
    began = time.perf_counter()
    loaded = run.loaded()
    reading = time.perf_counter() - began
    n, held = loaded.train.size, loaded.val[""].size        # type: ignore[union-attr]
    unit = "an epoch" if run.size.unit == "epoch" else f"{run.size.unit} updates"
    print(f"\n{run.name}: {n} images to train on, {held} to choose by, read in {reading:.1f} s; {run.size.max_t} units of {unit}")
    with tempfile.TemporaryDirectory(prefix="cifar10-", ignore_cleanup_errors=True) as folder:
        began = time.perf_counter()
        with run.study(storage or folder) as results:
            took = time.perf_counter() - began
            best = results.best
            shown = curve(run, results)
            failed = Counter(kind for (kind,) in results.journal.rows("SELECT kind FROM trials WHERE kind IS NOT NULL"))
            notes = {kind: [note.text for note in results.log if note.kind == kind] for kind in ("stack", "choice", "end")}
            tested = best.test()["error"] if run.tested else None
            alone = one_after_another(run, results)
            found = {
                "images": {"train": n, "val": held}, "size": vars(run.size), "trials": len(results), "study_s": took,
                "reading_s": reading, "best": {"config": best.config, "trial": best.trial, "step": best.step},
                "validation_error": best.metrics["error"], "test_error": tested, "ends": results.counts(), "failures": dict(failed),
                "notes": notes, "curve": [vars(point) for point in shown], "one_after_another": alone,
            }  # fmt: skip
    show(run, found, shown)
    return found


def show(run: Run, found: Mapping[str, Any], shown: list[Spent]) -> None:
    total = shown[-1].epochs
    points = [next(point for point in shown if point.epochs >= total / 2**k * 0.999) for k in range(7, -1, -1)]
    rows = [[point.epochs, point.seconds, point.error] for point, _ in itertools.groupby(points)]
    common.table(f"{run.name}: the best validation error so far", ["epochs, all trials", "seconds", "error"], rows)
    ends = ", ".join(f"{count} {state}" for state, count in found["ends"].items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["failures"].items())
    over = "; ".join(found["notes"]["end"]) or "there was nothing left to do"
    print(f"  {found['trials']} trials: {ends}{f' ({kinds})' if kinds else ''}; the study ended: {over}")
    best = found["best"]
    print(f"  best: trial {best['trial']} at unit {best['step']}, test error {common.number(found['test_error'])}")
    for name, value in best["config"].items():
        print(f"    {name:15} {common.number(value)}")
    stacks = found["notes"]["stack"]
    print(f"  stacks: {sum('begins with' in text for text in stacks)}")
    shown_notes = [*stacks, *found["notes"]["choice"]]
    for text in shown_notes[:NOTES]:
        print(f"    {text}")
    if len(shown_notes) > NOTES:
        print(f"    ... and {len(shown_notes) - NOTES} more, in the result")
    alone = found["one_after_another"]
    ratio = alone["s"] / found["study_s"]
    print(
        f"  the study took {found['study_s']:.1f} s; the same trials one after another: {alone['s']:.1f} s, standard error "
        f"{alone['standard_error_s']:.1f} s, EXTRAPOLATED from {alone['sample']} of {alone['units']} units: {ratio:.2f} times as long"
    )


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 images, few updates: about two minutes on two cores")
    parser.add_argument("--task", help=f"of {', '.join(TASKS)}, several with commas; default: all of them, convnet alone in the quick form")
    parser.add_argument("--data", help="an image folder; default: CIFAR-10, downloaded by torchvision")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--max-t", type=int, help="units of budget of the longest trials")
    parser.add_argument("--slots", type=int, help="trials at once; default: hp.Fused's, in the quick form 4 or 8")
    parser.add_argument("--images", type=int, help="how many to train on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", help="a folder that keeps the studies; default: they are thrown away")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    names = (options.task or ("convnet" if options.quick else ",".join(TASKS))).split(",")
    if wrong := [name for name in names if name not in TASKS]:
        parser.error(f"--task: {', '.join(wrong)} is none of {', '.join(TASKS)}")
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    where = common.environment("torchvision") | ({"gpu": torch.cuda.get_device_name()} if cuda else {})
    probed = common.probes()
    common.heading(where, probed)
    found = {}
    for name in names:
        size = TASKS[name][2 if options.quick else 1]
        given = {"trials": options.trials, "max_t": options.max_t, "most": options.images, "slots": options.slots}
        size = Size(**{**vars(size), **{word: value for word, value in given.items() if value is not None}})
        try:
            run = Run(name, size, options.data, device, options.seed)
        except NoData as error:
            print(f"skipped: {error}")
            return None
        found[name] = measure(run, options.storage)
    if options.quick:
        print("\nThe quick form: a part of the images and a few updates a trial. It shows that all of this works, and no quality.")
    result = {"environment": where, "probes": probed, "quick": options.quick, "data": options.data and Path(options.data).name}
    result |= {"seed": options.seed, "tasks": found}
    kind = f"cifar10-{torch.cuda.get_device_name().lower().replace(' ', '-')}" if cuda else "cifar10"
    common.save(kind, options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()
