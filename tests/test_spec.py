"""Parts as JSON, and back."""

from __future__ import annotations

import functools
import hashlib
import json
import linecache
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.plan import source_of
from torchtune_hp.schedulers import ASHA
from torchtune_hp.searchers import GridSearch
from torchtune_hp.spec import brief, difference, of_callable, rebuild, spec
from torchtune_hp.stopping import AnyOf, MaxSteps, Plateau


def named(trial: int, metrics: dict) -> bool:
    return True


class Foreign:
    def __init__(self, depth: int = 3) -> None:
        self.depth = depth


class Secretive:
    def __init__(self, hidden: int) -> None:
        pass

    def __repr__(self) -> str:
        return "Secretive!"


@pytest.mark.parametrize(
    "part", [ASHA(max_t=27, reduction_factor=3), MaxSteps(5), Plateau(3, 0.5), AnyOf([MaxSteps(2), Plateau(1)]), GridSearch()]
)
def test_a_part_of_the_package_comes_back_equal(part: Any) -> None:
    described = spec(part)
    again = rebuild(json.loads(json.dumps(described)), "scheduler")
    assert type(again) is type(part) and spec(again) == described


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "text", [1, [2]], {"a": {"b": 1}}])
def test_plain_values_are_themselves(value: Any) -> None:
    assert spec(value) == value and rebuild(spec(value), "x") == value


def test_tuples_become_lists_and_arguments_stand_by_name() -> None:
    assert spec((1, 2)) == [1, 2]
    assert spec(MaxSteps(5)) == {"type": "torchtune_hp.stopping:MaxSteps", "args": {"steps": 5}}
    assert spec(Foreign(4)) == {"type": f"{__name__}:Foreign", "args": {"depth": 4}}
    assert spec(Secretive(1)) == {"type": f"{__name__}:Secretive", "repr": "Secretive!"}


def test_an_importable_function_is_named_and_any_other_is_hashed() -> None:
    assert of_callable(named) == {"callable": f"{__name__}:named"}
    assert spec(math.sqrt) == {"callable": "math:sqrt"}
    one, same, other = (of_callable(function) for function in (lambda x: x + 1, lambda x: x + 1, lambda x: x + 2))
    assert set(one) == {"source_sha256", "name"} and len(one["source_sha256"]) == 64
    assert one == same != other     # all three stand in one line
    blank = eval("lambda x: x + 1"), eval("lambda x: x + 1"), eval("lambda x: x + 2")
    hashes = [of_callable(function)["source_sha256"] for function in blank]
    assert hashes[0] == hashes[1] != hashes[2] and other


LAMBDAS = """
import functools
TRIALS = 2
a = dict(f=lambda c: 2, trials=TRIALS, g=lambda c: 3); b = "üÜ", (lambda c: c["x"] if c else "ü"), lambda c: 2
nested = lambda c: (lambda: 2)()
inner = (lambda c: (lambda: 2))(0)
several = functools.partial(
    lambda c: [
        c + k for k in range(3)
    ], trials=TRIALS)
def closed(n): return lambda c: c + n
"""


def lambdas(text: str, folder: Path) -> list[Any]:
    file = folder / "lambdas.py"
    file.write_text(text, encoding="utf-8")
    linecache.checkcache()
    names: dict[str, Any] = {}
    exec(compile(text, str(file), "exec"), names)
    found = [names["a"]["f"], names["a"]["g"], names["b"][1], names["b"][2], names["nested"], names["inner"], names["several"].func]
    return [of_callable(function)["source_sha256"] for function in [*found, names["closed"](1), names["closed"](2)]]


def test_a_lambda_is_its_own_text_and_not_that_of_its_line(tmp_path: Path) -> None:
    f, g, other, again, nested, inner, several, one, two = was = lambdas(LAMBDAS, tmp_path)
    assert f == again == hashlib.sha256(b"lambda c: 2").hexdigest() and inner == hashlib.sha256(b"lambda: 2").hexdigest()
    assert len({f, g, other, nested, inner, several, one}) == 7 and one == two       # as of a function: what it closes over does not count
    assert lambdas("# moved\n\n" + LAMBDAS.replace("TRIALS", "4 * TRIALS").replace("4 * TRIALS =", "TRIALS ="), tmp_path) == was
    assert [a == b for a, b in zip(lambdas(LAMBDAS.replace("range(3)", "range(4)"), tmp_path), was)] == [True] * 6 + [False] + [True] * 2


@pytest.mark.parametrize("text", ["a = (1,\n", "a = 1\n", "a = lambda c: 123456\n\n", ""])
def test_a_lambda_whose_file_has_changed_is_known_by_what_it_does(tmp_path: Path, text: str) -> None:
    file, names = tmp_path / "changed.py", {}
    exec(compile("a = 1, 2, 3, lambda c: c + 1, 5\n", str(file), "exec"), names)
    file.write_text(text)
    linecache.checkcache()
    assert of_callable(names["a"][3])["source_sha256"] == of_callable(eval("lambda c: c + 1"))["source_sha256"]


SETS = "({'aa', 'bb', 'cc'}, frozenset({'dd', ('ee', frozenset({'ff', 'gg', 'hh'}))}), set(), {1: {'ii', 'jj'}}, Ellipsis)"
SET_CODE = """
import json, sys
from torchtune_hp.journal_text import to_json
from torchtune_hp.space import Space, choice, uniform
from torchtune_hp.spec import spec
sets = eval(sys.argv[1])
space = Space({"x": uniform(0, 1), "tags": choice(list(sets)), "kept": sets[0]})
print(json.dumps([space.describe(), [spec(one) for one in sets], [to_json({"a": one}) for one in sets]]))
"""


def test_a_set_is_described_alike_in_every_process() -> None:
    """Slow: four interpreters import torch."""
    said = set()
    for seed in ("1", "2", "3", "4"):
        command, env = [sys.executable, "-c", SET_CODE, SETS], {**os.environ, "PYTHONHASHSEED": seed}
        said.add(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout.decode())
    (only,) = said
    assert "{'aa', 'bb', 'cc'}" in only and "frozenset({'dd', ('ee', frozenset({'ff', 'gg', 'hh'}))})" in only and "set()" in only


TYPED = (
    "lambda t, m: (lambda: good(m))()",
    "lambda t, m: (lambda: bad(m))()",
    "lambda t, m: t in {'a', 'b', 'c', 'd'}",
    "lambda t, m: t in {'a', 'b', 'c', 'e'}",
)


def hashes() -> list[str]:
    return [of_callable(eval(text))["source_sha256"] for text in TYPED]


def test_without_source_a_function_is_known_by_the_names_it_uses_however_deep() -> None:
    shallow = [of_callable(eval(f"lambda t, m: {name}(m)")) for name in ("good", "bad", "good")]
    assert shallow[0] == shallow[2] != shallow[1]
    assert len(set(hashes())) == len(TYPED)


def test_a_description_is_the_same_in_every_process() -> None:
    code = "import sys, torchtune_hp.spec as s; print(*(s.of_callable(eval(text))['source_sha256'] for text in sys.argv[1:]))"
    for seed in ("1", "2"):
        command, env = [sys.executable, "-c", code, *TYPED], {**os.environ, "PYTHONHASHSEED": seed}
        assert subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout.decode().split() == hashes()
    held = {"callable": of_callable(functools.partial(lambda: 0)), "part": spec(Holding(object()))}
    assert held == {
        "callable": {"repr": f"functools.partial(<function {test_a_description_is_the_same_in_every_process.__name__}.<locals>.<lambda>>)"},
        "part": {"type": f"{__name__}:Holding", "repr": "Holding(<object object>)"},
    }


def test_a_study_s_header_holds_no_data_of_its_trainable() -> None:
    assert source_of(functools.partial(named, metrics=list(range(1000))))["callable"] == f"{__name__}:named"


class Holding:
    def __init__(self, what: Any) -> None:
        self._what = what

    def __repr__(self) -> str:
        return f"Holding({self._what!r})"


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (spec(Foreign()), "is not a part of torchtune_hp; pass searcher= again"),
        (spec(Secretive(1)), "cannot be brought back from the journal; pass searcher= again"),
        (spec(named), "named cannot be brought back"),
        (spec(lambda: 0), "cannot be brought back"),
        ({"repr": "a partial"}, "searcher: a partial cannot be brought back"),
        ({"type": "torchtune_hp.seeds:derive", "args": {}}, "is not a class"),
        ({"type": "os:system", "args": {"command": "true"}}, "os:system is not a part of torchtune_hp"),
        ({"type": "torchtune_hpx:Evil", "args": {}}, "is not a part of torchtune_hp"),
        ({"type": "torchtune_hp.seeds:derive"}, "is not a part"),
        ([1, {"type": "os:system", "args": {}}], "os:system"),
        ({"deep": {"callable": "os:system"}}, "os:system"),
        ({"type": "torchtune_hp.schedulers.pbt9:PBT", "args": {}}, r"^searcher: .*pbt9:PBT is not in this version; pass searcher= again"),
        ({"type": "torchtune_hp.schedulers.asha:PBT", "args": {}}, "is not in this version"),
        (spec(ASHA(max_t=9)) | {"args": {"max_t": 9, "min_t": 1}}, r"ASHA\(max_t=9, min_t=1\) is none of this version .*min_t"),
    ],
)
def test_what_cannot_be_rebuilt_says_which_argument_to_pass(described: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        rebuild(described, "searcher")


def test_a_difference_names_what_changed() -> None:
    assert difference("scheduler", spec(ASHA(max_t=9)), spec(ASHA(max_t=9))) == []
    assert difference("scheduler", spec(ASHA(max_t=9)), spec(ASHA(max_t=27))) == ["scheduler.max_t: 9 -> 27"]
    assert difference("stop", None, spec(MaxSteps(3))) == ["stop: None -> MaxSteps(steps=3)"]
    assert difference("seed", 0, 1) == ["seed: 0 -> 1"]
    assert difference("points", {"a": 1, "b": 2}, {"a": 1, "c": 2}) == ["points.b: 2 -> None", "points.c: None -> 2"]
    written_before_it_had_a_brackets = spec(ASHA(max_t=9))
    del written_before_it_had_a_brackets["args"]["brackets"]
    assert difference("scheduler", written_before_it_had_a_brackets, spec(ASHA(max_t=9))) == []
    assert difference("scheduler", written_before_it_had_a_brackets, spec(ASHA(max_t=9, brackets=2))) == ["scheduler.brackets: 1 -> 2"]
    (line,) = difference("stop", spec(MaxSteps(3)), spec(Plateau(3)))
    assert line == "stop: MaxSteps(steps=3) -> Plateau(patience=3, min_delta=0.0, grace_period=0)"


def test_brief_is_for_people() -> None:
    assert brief(spec(MaxSteps(3))) == "MaxSteps(steps=3)"
    assert brief(spec(named)) == f"{__name__}:named"
    assert brief({"source_sha256": "0123456789", "name": "f"}) == "f (source 01234567)"
    assert brief({"source_sha256": "0123456789"}) == "function (source 01234567)"
    assert brief({"repr": "a partial"}) == "a partial"
    assert brief([1]) == "[1]"
