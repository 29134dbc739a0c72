"""A driver that trains stacks is killed in an iteration: the same trials and decisions, and the same metrics up to rounding."""

from __future__ import annotations

import json
from pathlib import Path

from tests.interpreters import run

SCRIPT = """
import json, math, os, signal, sys
from pathlib import Path

import torch
import torchtune_hp as hp
from tests.faults.studies import arguments
from torchtune_hp.journal import Journal
from torchtune_hp.population.engine import Engine
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.trial import Reached

home = Path(sys.argv[1])
SPACE = {"lr": hp.loguniform(1e-3, 0.1), "dropout": hp.uniform(0.0, 0.6), "width": hp.choice([4, 8])}


def study(folder):
    fused = hp.Fused(4, strategy="vmap")
    hp.Tuner(**arguments(folder, fused, trainable=ToyModel, space=SPACE, trials=10, checkpoint_every=0.02)).fit().close()


def session(folder, at=None):
    "In a process of its own; `at`: it is killed as it begins its so many-th iteration."
    child = os.fork()
    if child == 0:
        advance, turns = Engine.advance, [0]

        def dying(self, runners):
            turns[0] += 1
            if turns[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return advance(self, runners)

        Engine.advance = dying
        try:
            study(folder)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def told(folder):
    "Who stood where and what was commanded; and all the numbers."
    outline, numbers = [], []
    with Journal.open(folder / "walk") as journal:
        for events, _, commands in journal.turns():
            looks = [event for event in events if isinstance(event, Reached)]
            outline.append(([(look.trial, look.step, look.done) for look in looks], repr(commands)))
            numbers += [value for look in looks for _, value in sorted(look.metrics.items())]
    return outline, numbers


study(home / "whole")                   # what it imports, the children have already
outline, numbers = told(home / "whole")
found = []
for at in (1, 3, 5, 8):
    folder = home / str(at)
    assert session(folder, at) == -signal.SIGKILL, at
    before = len(told(folder)[0]) if (folder / "walk" / "study.db").exists() else 0
    assert session(folder) == 0, at
    again, values = told(folder)
    assert again == outline, at
    assert all(math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5) for one, other in zip(values, numbers, strict=True)), at
    with hp.Results.open(folder / "walk", trainable=ToyModel) as results:
        x, y = ToyModel.data().val[""].tree
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(results.best.load()(x), y).item()
        assert math.isclose(loss, results.best.metrics["loss"], rel_tol=1e-4), at
    found.append(before)
print(json.dumps({"turns": len(outline), "killed": found}))
"""


def test_a_fused_study_killed_in_an_iteration_goes_on_to_the_same_decisions(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(script, str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == sorted(found["killed"]) and 0 < found["killed"][2] < found["killed"][3] < found["turns"]
