"""Images: taken as arrays, decoded from files, kept decoded; what is never kept; what is said."""

from __future__ import annotations

import io
import os
import pickle
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10, DatasetFolder, ImageFolder
from torchvision.transforms import v2

import torchtune_hp as hp
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.observers import progress
from torchtune_hp.training import cache, images
from torchtune_hp.training.loading import bar, loading, shown_by

SIDE, PER_CLASS = 6, 70     # two parts of OFTEN and a bit


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where decoded images are kept."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of lossless images whose pixels are known: `pixels`."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            Image.fromarray(pixels(label, i)).save(tmp_path / "set" / name / f"{i:03d}.png")
    return tmp_path / "set"


def pixels(label: int, i: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(100 * label + i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def expected() -> tuple[Tensor, Tensor]:
    whole = [pixels(label, i) for label in (0, 1) for i in range(PER_CLASS)]
    return torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2), torch.tensor([0] * PER_CLASS + [1] * PER_CLASS)


def tree(dataset: Any) -> Any:
    return hp.Data(train=dataset).train.tree        # type: ignore[union-attr]


def quietly(dataset: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tree(dataset)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples that were decoded, as they are."""
    seen: list[int] = []
    read = DatasetFolder.__getitem__

    def counting(self: DatasetFolder, index: int) -> Any:
        seen.append(index)
        return read(self, index)

    monkeypatch.setattr(DatasetFolder, "__getitem__", counting)
    return seen


# From files ---------------------------------------------------------------------------------------------------------------


def test_an_image_folder_becomes_whole_number_tensors_in_the_order_of_its_samples(folder: Path) -> None:
    x, y = quietly(ImageFolder(folder))
    assert x.dtype == torch.uint8 and x.is_contiguous() and y.dtype == torch.int64
    assert torch.equal(x, expected()[0]) and torch.equal(y, expected()[1])


@pytest.mark.parametrize("gain", [0.0, 1e9])
def test_threads_give_what_one_after_another_gives(folder: Path, monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    seen = set()
    item = ImageFolder.__getitem__

    def watched(self: Any, index: int) -> Any:
        seen.add(threading.get_ident())
        return item(self, index)

    monkeypatch.setattr(images, "GAIN", gain)
    monkeypatch.setattr(images, "OFTEN", 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(DatasetFolder, "__getitem__", watched)
    assert torch.equal(quietly(ImageFolder(folder))[0], expected()[0])
    assert len(seen) > 1


def test_a_transform_is_applied_and_need_not_give_whole_numbers(folder: Path) -> None:
    x, y = quietly(ImageFolder(folder, transform=transforms.ToTensor(), target_transform=None))
    assert x.dtype == torch.float32 and torch.equal(x, expected()[0] / 255)
    pictures, _ = quietly(ImageFolder(folder, transform=v2.Compose([v2.ToImage(), v2.Resize((3, 4))])))
    assert type(pictures) is Tensor and pictures.dtype == torch.uint8 and pictures.shape == (2 * PER_CLASS, 3, 3, 4)
    grey, _ = quietly(ImageFolder(folder, transform=transforms.Grayscale()))
    assert grey.shape == (2 * PER_CLASS, 1, SIDE, SIDE)


def test_a_subset_decodes_its_own_samples_alone(folder: Path, decoded: list[int]) -> None:
    part = Subset(Subset(ImageFolder(folder), range(0, 140, 2)), [torch.tensor(3), 60, 0])
    x, y = quietly(part)
    assert decoded == [6, 120, 0]
    assert torch.equal(x, expected()[0][[6, 120, 0]]) and y.tolist() == [0, 1, 0]


def test_images_of_several_sizes_are_an_error_that_says_how_to_resize(folder: Path) -> None:
    Image.new("RGB", (5, 7)).save(folder / "dog" / "000.png")
    with pytest.raises(ConfigurationError, match=r"dog/000\.png has \(3, 7, 5\) .*cat/000\.png \(3, 6, 6\).*Resize\(\(6, 6\)\)"):
        tree(ImageFolder(folder))


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    for content in (b"no image", (folder / "cat" / "001.png").read_bytes()[:60]):
        (folder / "dog" / "000.png").write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"every file must be an image, but .*dog/000\.png is not"):
            tree(ImageFolder(folder))


# Kept ---------------------------------------------------------------------------------------------------------------------


def test_what_was_decoded_is_kept_and_read_again_bit_for_bit(folder: Path, kept: Path, decoded: list[int]) -> None:
    first = quietly(ImageFolder(folder))
    assert len(decoded) == 2 * PER_CLASS and len(list(kept.iterdir())) == 1
    again = quietly(ImageFolder(folder))
    assert len(decoded) == 2 * PER_CLASS
    assert type(again) is tuple and all(torch.equal(a, b) for a, b in zip(first, again))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, transforms.CenterCrop(6)),
        (transforms.Resize((4, 4)), transforms.Resize((4, 5))),
        (transforms.Resize((4, 4)), transforms.Resize((4, 4), interpolation=transforms.InterpolationMode.NEAREST)),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), v2.Compose([v2.ToImage(), v2.ToDtype(torch.float64)])),
        (transforms.Compose([transforms.Resize((4, 4))]), transforms.Compose([transforms.Resize((4, 4)), transforms.Grayscale()])),
    ],
)  # fmt: skip
def test_sets_that_differ_in_a_transform_are_kept_apart(folder: Path, kept: Path, one: Any, other: Any) -> None:
    made = [quietly(ImageFolder(folder, transform=transform))[0] for transform in (one, other)]
    again = [quietly(ImageFolder(folder, transform=transform))[0] for transform in (one, other)]
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(made, again))
    assert len(list(kept.iterdir())) == 2


def test_subsets_are_kept_apart(folder: Path, kept: Path) -> None:
    whole = ImageFolder(folder)
    for _ in range(2):
        assert [quietly(Subset(whole, part))[1].tolist() for part in ([0, 1], [1, 139])] == [[0, 0], [0, 1]]
    assert len(list(kept.iterdir())) == 2


def test_files_that_changed_are_decoded_again_with_a_warning_and_replace_what_was_kept(folder: Path, kept: Path) -> None:
    quietly(ImageFolder(folder))
    Image.fromarray(pixels(1, 69)).save(folder / "cat" / "000.png")
    os.utime(folder / "cat" / "000.png", ns=(1, 1))
    with pytest.warns(RuntimeWarning, match=r"train=\.\.\.\): the files have changed since they were decoded into .*decoded again"):
        x, _ = tree(ImageFolder(folder))
    assert torch.equal(x[0], expected()[0][139]) and torch.equal(x[1:], expected()[0][1:])
    assert len(list(kept.iterdir())) == 1
    assert torch.equal(quietly(ImageFolder(folder))[0], x)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_copy_is_decoded_again_with_a_warning(folder: Path, kept: Path, damage: str) -> None:
    quietly(ImageFolder(folder))
    [path] = kept.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "cut": content[:-9], "emptied": b""}[damage])
    with pytest.warns(RuntimeWarning, match="is damaged, so the files are decoded again"):
        assert torch.equal(tree(ImageFolder(folder))[0], expected()[0])
    assert torch.equal(quietly(ImageFolder(folder))[0], expected()[0])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_copy_that_would_run_code_is_not_loaded(folder: Path, kept: Path) -> None:
    """Whoever can write there can name a file after its hash; torch loads data only."""
    quietly(ImageFolder(folder))
    [path] = kept.iterdir()
    path.write_bytes(pickle.dumps(Path("/")))
    digest = cache._digest(path)
    path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{digest}.pt"))
    with pytest.raises(pickle.UnpicklingError):
        tree(ImageFolder(folder))


def test_where_nothing_can_be_written_a_warning_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="could not be kept in .*decoded again next time"):
        assert torch.equal(tree(ImageFolder(folder))[0], expected()[0])
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "full"))
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.warns(RuntimeWarning, match="could not be kept in .*No space left"):
        tree(ImageFolder(folder))
    assert list((tmp_path / "full").iterdir()) == []


def full_disk(tree: Any, file: Any) -> None:
    file.write(b"half")
    raise OSError(28, "No space left on device")


def test_where_decoded_images_lie_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    monkeypatch.setenv(cache.VARIABLE, "~/here")
    assert cache.folder() == Path("/home/me/here")
    monkeypatch.setenv(cache.VARIABLE, "")
    assert cache.folder() is None
    monkeypatch.delenv(cache.VARIABLE)
    assert cache.folder() == Path("/big/torchtune_hp")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.folder() == Path("/home/me/.cache/torchtune_hp")


def test_nothing_is_kept_where_keeping_is_off(folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "")
    quietly(ImageFolder(folder, transform=lambda image: image))
    assert not kept.exists()


# Never kept ---------------------------------------------------------------------------------------------------------------


def halved(image: Any) -> Any:
    return image.resize((3, 3))


class Own(transforms.Resize):
    """torchvision's, and yet not."""


@pytest.mark.parametrize(
    ("transform", "name"), [(halved, "halved"), (transforms.Lambda(lambda x: x), "lambda"), (Own((3, 3)), "Own"),
                            (transforms.Compose([transforms.Resize((3, 3)), halved]), "halved")]
)  # fmt: skip
def test_a_transform_that_may_change_unnoticed_is_not_kept_and_that_is_said(folder: Path, kept: Path, transform: Any, name: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"not kept for the next process, for they depend on .*{name}"):
        assert len(tree(ImageFolder(folder, transform=transform))[0]) == 2 * PER_CLASS
    assert not kept.exists()


@pytest.mark.filterwarnings("ignore:.*are not kept")
def test_a_loader_of_ones_own_is_not_kept(folder: Path, kept: Path) -> None:
    assert tree(ImageFolder(folder, loader=lambda path: torch.tensor([len(path)])))[0].shape == (2 * PER_CLASS, 1)
    assert not kept.exists()


class Sometimes:
    """Draws for one image in the middle of the set alone."""

    def __init__(self) -> None:
        self.at = pixels(1, 60).tobytes()

    def __call__(self, image: Any) -> Tensor:
        x = torch.from_numpy(np.array(image))
        return x + torch.randint(200, (1,)).byte() if x.numpy().tobytes() == self.at else x


@pytest.mark.filterwarnings("ignore:.*are not kept")
@pytest.mark.parametrize("transform", [transforms.RandomHorizontalFlip(), v2.RandomCrop(6, padding=2), Sometimes()])
def test_random_transforms_are_warned_of_never_kept_and_drawn_the_same_each_time(folder: Path, kept: Path, transform: Any) -> None:
    made = []
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=r"draws random numbers, but it is read once: .*hp\.random_crop"):
            made.append(tree(ImageFolder(folder, transform=transform))[0])
        torch.rand(3)
    assert torch.equal(*made) and not torch.equal(made[0], expected()[0])
    assert not kept.exists()


# Arrays -------------------------------------------------------------------------------------------------------------------


def cifar(path: Path, monkeypatch: pytest.MonkeyPatch, **words: Any) -> CIFAR10:
    """A CIFAR-10 of twenty images, from files as torchvision reads them."""
    base = path / CIFAR10.base_folder
    base.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, _ in CIFAR10.train_list:
        entry = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": rng.integers(0, 10, 4).tolist()}
        (base / name).write_bytes(pickle.dumps(entry))
    (base / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    return CIFAR10(str(path), **words)


def test_cifar10_is_taken_at_once(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = cifar(tmp_path, monkeypatch)
    one_by_one = tree([dataset[i] for i in range(20)])
    monkeypatch.setattr(Image, "fromarray", None)
    x, y = quietly(dataset)
    assert x.dtype == torch.uint8 and x.shape == (20, 3, 32, 32) and x.is_contiguous()
    assert torch.equal(x, one_by_one[0]) and torch.equal(y, one_by_one[1])
    assert torch.equal(quietly(Subset(dataset, [7, 2]))[0], x[[7, 2]])
    x[0] = 0
    assert dataset.data[0].any() and not kept.exists()


def test_cifar10_with_transforms_goes_through_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = quietly(cifar(tmp_path, monkeypatch))
    x, y = quietly(cifar(tmp_path, monkeypatch, transform=transforms.ToTensor(), target_transform=float))
    assert torch.equal(x, plain / 255) and y.dtype == torch.float32


# How far it has come ------------------------------------------------------------------------------------------------------


def test_how_far_the_reading_has_come_is_told(folder: Path) -> None:
    heard: list[Any] = []

    @contextmanager
    def show(what: str, total: int) -> Iterator[Any]:
        heard.append((what, total))
        yield heard.append
        heard.append("over")

    with shown_by(show):
        tree(ImageFolder(folder))
        hp.Data(train=torch.zeros(3), val=[(torch.zeros(1), 0)])
    assert heard == [("hp.Data(train=...)", 140), 64, 128, 140, "over", ("hp.Data(val=...)", 1), 0, "over"]


def test_the_bar_is_drawn_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with loading("pictures", 3) as told:
        told(2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with bar("pictures", 3) as told:
        told(2)
    found = capsys.readouterr()
    assert "loading pictures" in found.err and found.out == ""


@pytest.mark.parametrize(("verbose", "said"), [(0, False), (1, True)])
def test_a_silent_study_reads_in_silence(folder: Path, monkeypatch: pytest.MonkeyPatch, verbose: int, said: bool) -> None:
    file = Terminal()
    monkeypatch.setattr("sys.stderr", file)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REFRESHES", 200)
    item = DatasetFolder.__getitem__

    def slowly(self: DatasetFolder, index: int) -> Any:
        time.sleep(0.001)
        return item(self, index)

    monkeypatch.setattr(DatasetFolder, "__getitem__", slowly)
    hp.tune(
        hp.with_parameters(Pictures, root=folder), {"lr": hp.uniform(0.1, 0.2)}, metric="loss", mode="min", trials=1,
        scheduler=hp.FullRuns(max_t=1), executor=hp.Serial(), storage=None, verbose=verbose,
    )  # fmt: skip
    assert ("128 of 140 samples" in file.getvalue()) == said and bool(file.getvalue()) == said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# In a study ---------------------------------------------------------------------------------------------------------------


def augmented(x: Tensor) -> Tensor:
    return hp.normalize(hp.cutout(hp.random_flip(hp.random_crop(x, 2)), 2), (0.4, 0.5, 0.6), 0.25)


class Pictures(hp.ModelTrainable):
    iteration = 2

    def setup(self, config: Any) -> None:
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config["lr"])

    @classmethod
    def data(cls, root: Path) -> hp.Data:
        return hp.Data(train=ImageFolder(root), val_fraction=0.25, batch_size=16)

    def augment(self, batch: Any) -> Any:
        assert batch[0].dtype == torch.uint8
        return augmented(batch[0]), batch[1]

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model(hp.normalize(batch[0], (0.4, 0.5, 0.6), 0.25)), batch[1])}


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_images_stay_whole_numbers_up_to_the_step_and_stacks_augment_as_one_does_alone(folder: Path, strategy: Any) -> None:
    rows = [{"lr": 0.01 * (k + 1)} for k in range(4)]
    curves = []
    for executor in (hp.Serial(4), hp.Fused(4, strategy=strategy)):
        results = hp.tune(
            hp.with_parameters(Pictures, root=folder), hp.Space.from_rows(rows), metric="loss", mode="min", trials=4,
            scheduler=hp.FullRuns(max_t=3), searcher=hp.RandomSearch(), executor=executor, storage=None, verbose=0,
        )  # fmt: skip
        assert not results.errors
        if strategy == "vmap" and isinstance(executor, hp.Fused):
            assert any("begins with 4 trials" in text for text in results.stacks)
        curves.append({trial: [look["train_loss"] for look in looks] for trial, looks in results.curves().items()})
    assert curves[0].keys() == curves[1].keys()
    for trial, curve in curves[0].items():
        assert curves[1][trial] == pytest.approx(curve, rel=1e-4)
    assert len({tuple(curve) for curve in curves[0].values()}) == 4
