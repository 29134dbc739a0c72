"""A real driver, a real SIGKILL, twenty random moments: interrupted equals uninterrupted."""

from __future__ import annotations

import json
from pathlib import Path

from tests.interpreters import run

SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path

import torchtune_hp as hp
from tests.faults.studies import arguments, best_again, story

home = Path(sys.argv[1])
chance = random.Random(11)


def run(folder):
    "One session in a process of its own, forked from this one, which has torch already; seconds it took, or how it died."
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            hp.Tuner(**arguments(folder, hp.Serial(), checkpoint_every=0.0)).fit()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child, began


hp.Tuner(**arguments(home / "warm", hp.Serial(), checkpoint_every=0.0)).fit()       # what it imports, the children have already
length = float("inf")       # of the shorter of two
for name in ("whole", "again"):
    child, began = run(home / name)
    assert os.waitpid(child, 0)[1] == 0
    length = min(length, time.monotonic() - began)
whole = story(home / "whole" / "walk")
died = []
for number in range(20):
    folder = home / str(number)
    child, began = run(folder)
    time.sleep(chance.random() * length)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    exists = (folder / "walk" / "study.db").exists()
    turns = len(story(folder / "walk")) if exists else 0
    child, began = run(folder)
    assert os.waitpid(child, 0)[1] == 0, number
    assert story(folder / "walk") == whole, number
    reported, loaded = best_again(folder / "walk")
    assert reported == loaded, number
    died.append([status, turns])
print(json.dumps({"died": died, "turns": len(whole)}))
"""


def test_a_serial_study_killed_at_twenty_random_moments_resumes_to_the_same_story(tmp_path: Path) -> None:
    """Forty drivers, one after another: seconds."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(script, str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    killed = [turns for status, turns in found["died"] if status == 9]
    assert len(killed) >= 10, f"too few were killed in time: {found}"
    assert len({turns for turns in killed if 0 < turns < found["turns"]}) >= 3, f"the moments were no different: {found}"
