"""What a clock chooses is chosen once, known by a name that other processes give it too, and obeyed without asking the clock again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchtune_hp.errors import JournalError
from torchtune_hp.journal import Journal
from torchtune_hp.population import group as group_module
from torchtune_hp.population.choosing import Strategy
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.kinds import any_width, named, structure_of
from torchtune_hp.population.speeds import Speeds
from torchtune_hp.session import _Choices
from torchtune_hp.testing.journal_suite import HEADER

from .test_engine import CONFIGS, Toy, alone, runners, same

ROOT = Path(__file__).parent.parent.parent


def timed(choices: dict[str, str], stack: float, k: int = 5, **more: Any) -> Speeds:
    """One after another takes 1 s a member."""
    speeds = Speeds(choices=choices, name="Toy", **more)
    speeds.alone = 1.0
    speeds.note(k, stack, 0.0)
    return speeds


@pytest.mark.parametrize(("stack", "found"), [(4.0, "vmap"), (5.1, "vmap"), (5.5, "loop")])
def test_the_faster_is_chosen_and_written_down_at_once(stack: float, found: str) -> None:
    choices: dict[str, str] = {}
    speeds = timed(choices, stack)
    assert choices == {"Toy 3": found} and speeds.chosen(5) == found
    assert (speeds.loses(5) == "5 at once take 5.5e+03 ms an update, one after another 5e+03 ms") == (found == "loop")


def test_no_later_time_and_no_other_number_of_that_size_changes_it() -> None:
    choices: dict[str, str] = {}
    speeds = timed(choices, 4.5)
    speeds.note(5, 9.0, 0.0)
    speeds.alone = 0.1
    assert speeds.chosen(4) == speeds.chosen(7) == "vmap" and speeds.loses(4) is None
    speeds.note(8, 4.5, 0.0)
    assert choices == {"Toy 3": "vmap", "Toy 4": "loop"}


@pytest.mark.parametrize("given", ["vmap", "loop", "graph"])
def test_what_was_chosen_before_is_obeyed_with_no_time_known_and_whatever_is_measured(given: str) -> None:
    speeds = Speeds(True, {"Toy 3": given}, "Toy")
    for _ in range(2):
        assert speeds.chosen(5) == given and speeds.replays(5) == (given == "graph")
        assert (speeds.loses(5) is not None) == (given == "loop")
        speeds.alone = 1e-9
        speeds.note(5, 1.0, 0.0)
    assert speeds.loses(8) is None and not speeds.replays(8)


def test_a_graph_that_was_chosen_before_is_said_to_be_so() -> None:
    speeds = Speeds(True, {"Toy 3": "graph", "Toy 4": "vmap"}, "Toy")
    for k in (5, 9):
        speeds.note(k, 1.0, 0.0)
        speeds.note(k, 1.0, 0.0, replayed=True)
        speeds.note(k, 1.0, 0.0, replayed=True)
    assert speeds.graph(5) == "this study chose so before" and speeds.graph(9) is None


def test_a_graph_that_cannot_be_captured_any_more_is_chosen_anew() -> None:
    choices = {"Toy 3": "graph"}
    speeds = timed(choices, 4.0)
    assert not speeds.replays(5) and choices == {"Toy 3": "vmap"}


# The names of structures ------------------------------------------------------------------------------------------------------


class Attentive(Toy):
    """A layer of torch's that holds a function, and a builtin one."""

    def build(self, config: Any) -> nn.Module:
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation=config.get("activation", F.relu))
        return nn.Sequential(layer, nn.Linear(6, 3))


def name_of(cls: type[Toy], **config: Any) -> str:
    return named(structure_of(runners(cls, [config])[0]))


def test_other_widths_and_classes_have_other_names_and_other_numbers_have_not() -> None:
    assert name_of(Toy, lr=0.1, p=0.5, width=8) == name_of(Toy, lr=0.2, p=0.1, width=60)      # padded, they are of one structure
    assert len({name_of(Toy), name_of(Toy, width=1000), name_of(Attentive), name_of(Attentive, activation=F.gelu)}) == 4


def test_another_process_gives_the_same_names() -> None:
    code = (
        "from tests.population.test_speeds import Attentive, F, Toy, name_of, torch\n"
        "print(name_of(Toy)), print(name_of(Attentive)), print(name_of(Attentive, activation=torch.relu))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout.split("\n")[:3] == [name_of(Toy), name_of(Attentive), name_of(Attentive, activation=torch.relu)]


SCRIPT = """
import torch
from torch import nn
from tests.population.test_speeds import Toy, name_of

class Layer(nn.Linear):
    pass

def act(x, modes=frozenset({"one", "two", "three", "four"})):
    def inner(x):
        return x.relu() if "two" in {"one", "two", "three", "four"} else [y for y in x]
    return inner(x)

class Net(Toy):
    def build(self, config):
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation=config.get("activation", act))
        layer.linear1.of, layer.linear1.modes = Layer, {"one", "two", "three", "four"}
        return nn.Sequential(layer, Layer(6, 3))

def names():
    print(name_of(Net), name_of(Net, activation=lambda x: x.relu()), name_of(Net, activation=lambda x: x.tanh()), sep="\\n")

if __name__ == "__main__":
    names()
"""


def test_a_script_that_is_run_and_one_that_is_imported_give_the_same_names_however_sets_are_hashed(tmp_path: Path) -> None:
    """Slow: two interpreters import torch."""
    (tmp_path / "the_script.py").write_text(SCRIPT)
    found = []
    for seed, command in (("1", ["the_script.py"]), ("2", ["-c", "import the_script; the_script.names()"])):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=True)
        found.append(ran.stdout.split("\n")[:3])
    assert found[0] == found[1] and len(set(found[0])) == 3


# The engine -------------------------------------------------------------------------------------------------------------------


def advanced(choices: dict[str, str]) -> list[str]:
    said: list[str] = []
    engine, members = Engine(lambda kind, text: said.append(text), "auto", choices), runners(Toy)
    looks = [engine.advance(members) for _ in range(3)]
    same([[look[member] for look in looks] for member in members], alone(Toy))
    return said


def test_an_engine_writes_down_what_it_chose_and_says_once_that_a_clock_did() -> None:
    choices: dict[str, str] = {}
    said = advanced(choices)
    assert list(choices) == [f"{name_of(Toy)} 3"] and set(choices.values()) <= {"vmap", "loop"}
    assert [text for text in said if "timing" in text] == [
        "Toy: how trials are trained at once is chosen by timing it. Results depend on that by rounding, and another run may choose "
        'otherwise: Fused(strategy="vmap") fixes it.'
    ]


@pytest.mark.parametrize("given", ["vmap", "loop"])
def test_an_engine_keeps_to_what_was_chosen_and_times_no_member(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "time_alone", None)
    said = advanced({f"{name_of(Toy)} 3": given})
    one_by_one = f"Toy: trained one by one where there are {len(CONFIGS)} or so: this study chose so before."
    assert said == (["Toy: stack 1 begins with 5 trials."] if given == "vmap" else [one_by_one])


def sizes(choices: dict[str, str], strategy: Strategy = "auto", k: int = 10, width: int = 8) -> list[int]:
    """Of the stacks in which an iteration of k, of this width and one of 8 more, is trained."""
    engine = Engine(strategy=strategy, choices=choices)
    engine.advance(runners(Toy, [{"width": width + 8 * (i % 2)} for i in range(k)]))
    return sorted(engine.stacks())


def test_a_clock_that_finds_padding_slow_at_one_size_has_chosen_for_all_sizes_and_after_a_resume_too() -> None:
    choices = {f"{name_of(Toy)} 3": "loop"}
    assert sizes(dict(choices)) == [10] == sizes(dict(choices), width=80)
    assert sizes(choices, k=6) == [3, 3]
    assert choices[f"{name_of(Toy)} widths"] == "unpadded"
    assert sizes(dict(choices), width=800) == [10]      # of other widths it was not asked
    assert sizes(dict(choices)) == [5, 5] == sizes(dict(choices), width=80)
    assert sizes(dict(choices), "vmap") == [10]         # which asks no clock, and obeys none


def test_widths_that_are_not_padded_for_what_was_chosen_before_are_said_to_be_so_once() -> None:
    heard: list[tuple[str, str]] = []
    choices = {f"{named(any_width(structure_of(runners(Toy)[0])))} widths": "unpadded"}
    engine = Engine(lambda *said: heard.append(said), choices=choices)
    members = runners(Toy, [{"width": 8 + 8 * (k % 2)} for k in range(6)])
    for _ in range(2):
        engine.advance(members)
    said = "Toy: widths are not padded, so there is a stack for each: this study chose so before."
    assert [each for each in heard if "not padded" in each[1]] == [("choice", said)]


# The journal ------------------------------------------------------------------------------------------------------------------


def full(**choices: str) -> _Choices:
    """Of a study whose journal takes no more."""
    journal = Journal.create(None, HEADER | {"choices": choices})
    made = _Choices(journal)
    journal.close()
    return made


def test_a_choice_that_the_journal_did_not_take_is_not_made() -> None:
    journal = Journal.create(None, HEADER)
    choices = _Choices(journal)
    choices["a"] = "vmap"
    assert choices == {"a": "vmap"} == journal.header["choices"] == _Choices(journal)
    failing = full(a="vmap")
    for key in "ab":
        with pytest.raises(JournalError):
            failing[key] = "loop"
    assert failing == {"a": "vmap"}


def test_a_journal_that_fails_at_a_choice_ends_the_study_with_its_own_error_and_nothing_of_the_iteration_is_kept() -> None:
    said: list[str] = []
    choices = full()
    engine, members = Engine(lambda kind, text: said.append(text), "auto", choices), runners(Toy)
    with pytest.raises(JournalError):
        engine.advance(members)
    assert choices == {} and said == []
    for member in members:
        engine.leave(member)
    same([[member.advance() for _ in range(3)] for member in members], alone(Toy))


def test_a_journal_that_fails_where_padding_loses_leaves_widths_padded() -> None:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "auto", full(**{f"{name_of(Toy)} 3": "loop"}))
    with pytest.raises(JournalError):
        engine.advance(runners(Toy, [{"width": 8 + 8 * (k % 2)} for k in range(6)]))
    assert said == [] == engine.stacks()


def test_where_widths_differ_alone_is_timed_from_the_narrow_to_the_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def seconds(runner: Any, batch: Any) -> float:
        timed.append(runner.member.model[0].out_features)
        return 1e-9

    monkeypatch.setattr(group_module, "time_alone", seconds)
    Engine(strategy="auto").advance(runners(Toy, [{"width": width} for width in (300, 8, 40, 16, 100, 9)]))
    assert timed == [9, 40, 300]
