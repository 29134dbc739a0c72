"""A study that goes on elsewhere or otherwise: in another folder, under another version, by another executor, without optional packages;
and objects that cannot travel to a worker."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from torchtune_hp.cli import main
from torchtune_hp.journal import Journal

from .studies import Walk, arguments, best_again, run_and_kill, story

# Elsewhere ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    home = tmp_path_factory.mktemp("whole")
    hp.Tuner(**arguments(home, hp.Simulated(4))).fit()
    return story(home / "walk")


@pytest.mark.parametrize("how", ["moved", "copied", "copied-while-it-runs"])
def test_a_study_goes_on_in_another_folder_with_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[Any], how: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "renamed"
    there.parent.mkdir()
    given = arguments(here, hp.Simulated(4), checkpoint_every=0.0)
    if how == "copied-while-it-runs":
        append, turns = Journal.append, [0]

        def copying(self: Journal, *what: Any) -> None:
            append(self, *what)
            turns[0] += 1
            if turns[0] == 12:
                shutil.copytree(here / "walk", there)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", copying)
            hp.Tuner(**given).fit()
    else:
        run_and_kill(12, True, given, monkeypatch)
        (shutil.move if how == "moved" else shutil.copytree)(here / "walk", there)      # type: ignore[operator]
        shutil.rmtree(here)
    assert len(story(there)) == 12
    monkeypatch.chdir(tmp_path)
    results = hp.Tuner.resume("there/renamed", Walk, verbose=0).fit()
    assert story(there) == whole and results.path == there
    assert not [note.text for note in results.log if note.kind == "checkpoint" and "gone" in note.text], "no checkpoint was lost on the way"
    reported, loaded = best_again(there)
    assert reported == loaded


@pytest.mark.parametrize("odd", ["a?b#c%20 d", "new\nline", "x'); --", "100%41", "file:x?mode=ro", "é🦊", "-rf"])
def test_a_folder_may_have_any_name(tmp_path: Path, odd: str) -> None:
    given = arguments(tmp_path / odd, hp.Simulated(4), trials=4)
    hp.Tuner(**given).fit().close()
    assert hp.Tuner.resume(tmp_path / odd / "walk", Walk, trials="+1", verbose=0).fit().path == tmp_path / odd / "walk"
    assert [path.name for path in tmp_path.iterdir()] == [odd] and main(["show", str(tmp_path / odd / "walk")]) == 0
    reported, loaded = best_again(tmp_path / odd / "walk")
    assert reported == loaded


def test_a_study_goes_on_under_other_versions_and_by_other_executors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[Any]
) -> None:
    given = arguments(tmp_path, hp.Simulated(4), checkpoint_every=0.0)
    run_and_kill(8, True, given, monkeypatch)
    with Journal.open(tmp_path / "walk", write=True) as journal:
        journal.update_header(versions={"torchtune_hp": "0.0.1", "torch": "1.0.0", "python": "3.4.0"})
    run_and_kill(5, True, given | {"executor": hp.Serial(4)}, monkeypatch)
    hp.Tuner(**given | {"executor": hp.Fused(slots=4, strategy="vmap")}).fit()
    assert story(tmp_path / "walk") == whole
    reported, loaded = best_again(tmp_path / "walk")
    assert reported == loaded


# Objects that cannot travel -----------------------------------------------------------------------------------------------


def a_generator() -> Iterator[int]:
    yield 1


MAKES: dict[str, tuple[Callable[[], Any], str | None]] = {
    "a lambda": (lambda: lambda value: value, None),
    "a local class": (lambda: type("Local", (), {}), None),
    "a lock": (threading.Lock, "lock"),
    "a file that is read": (lambda: open(__file__), None),
    "a file that is written": (lambda: open(os.devnull, "w"), "file"),
    "a socket": (socket.socket, "socket"),
    "a generator": (a_generator, "generator"),
    "a thread": (threading.Thread, "lock"),
}


@pytest.mark.usefixtures("quick_server")
@pytest.mark.parametrize("what", MAKES)
def test_what_cannot_travel_is_trained_in_this_process_and_refused_by_name_in_others(tmp_path: Path, what: str) -> None:
    make, kind = MAKES[what]
    thing = make()

    def train(config: dict[str, Any], helper: Any) -> dict[str, Any]:
        return {"loss": config["x"] if helper["deep"][0] is not None else None}

    def study(executor: Any, name: str) -> hp.Results:
        return hp.tune(
            hp.with_parameters(train, helper={"deep": [thing]}), {"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=2,
            executor=executor, storage=tmp_path, name=name, searcher=hp.RandomSearch(), verbose=0,
        )  # fmt: skip

    assert study(hp.Serial(), "here").counts() == {"completed": 2}
    if kind is None:
        assert study(hp.Processes(1), "there").counts() == {"completed": 2}
    else:
        with pytest.raises(hp.ConfigurationError) as caught:
            study(hp.Processes(1), "there")
        said = str(caught.value)
        assert "helper" in said and kind in said and "hp.Serial()" in said, said
        assert not (tmp_path / "there").exists()
    if hasattr(thing, "close"):
        thing.close()


# Optional packages --------------------------------------------------------------------------------------------------------

OPTIONAL = [
    "pandas", "plotly", "optuna", "ray", "cmaes", "tensorboard", "safetensors", "safetensors.torch", "onnx", "onnxscript", "sklearn",
]   # fmt: skip


def test_without_any_optional_package_a_study_runs_and_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: list[Any]
) -> None:
    for name in OPTIONAL:
        monkeypatch.setitem(sys.modules, name, None)
    results = hp.Tuner(**arguments(tmp_path, hp.Simulated(4))).fit()
    assert story(tmp_path / "walk") == whole
    frame = results.get_dataframe()
    assert type(frame) is list and len(frame) == 20 and frame[0]["trial"] == 0
    for command in (["show"], ["best"], ["export", "--to", "csv"]):
        assert main([command[0], str(tmp_path / "walk"), *command[1:]]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("package", "module", "extra"), [("optuna", "optuna", "optuna"), ("ray", "ray_tune", "ray")])
def test_an_integration_without_its_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, module: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"torchtune_hp.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=rf"torchtune_hp.integrations.{module} needs .*: pip install 'torchtune-hp\[{extra}\]'"):
        importlib.import_module(f"torchtune_hp.integrations.{module}")
