"""A driver that ends at the worst points there are, by `os._exit`: interrupted equals uninterrupted, and nothing is left over."""

from __future__ import annotations

import json
from pathlib import Path

from tests.interpreters import run

SCRIPT = """
import json, os, sqlite3, sys
from pathlib import Path

import torchtune_hp as hp
from tests.faults.studies import arguments, best_again, story
from torchtune_hp import checkpoints, journal, journal_file, session, vault
from torchtune_hp.executors.serial import Serial

home = Path(sys.argv[1])
os.fsync = lambda file: None        # what a process has written outlives the process, if not the machine


def dying(owner, name, when, at):
    "From its `at`-th call on there is no more of this process: before that call, or after it, or half-way through what it writes."
    call, calls = getattr(owner, name), [0]

    def called(*given, **more):
        calls[0] += 1
        if calls[0] == at and when == "half":
            given[0].write_bytes(given[1][: len(given[1]) // 2])
        if calls[0] == at and when != "after":
            os._exit(9)
        found = call(*given, **more)
        if calls[0] == at:
            os._exit(9)
        return found

    setattr(owner, name, called)


POINTS = {
    "before a checkpoint's file": (checkpoints, "_write", "before", 9),
    "in the middle of a checkpoint's file": (checkpoints, "_write", "half", 9),
    "before it has its name": (checkpoints, "sync", "before", 12),
    "between a checkpoint's file and its row": (journal.Journal, "add_checkpoint", "before", 9),
    "between its row and the end of older ones": (vault.Vault, "_forget_older", "before", 9),
    "between the end of a row and that of its file": (vault, "_delete", "before", 3),
    "inside a turn's transaction": (journal.Pending, "insert", "after", 2),
    "as a turn is to be written": (journal.Journal, "append", "before", 7),
    "between a turn and what it commands": (journal.Journal, "append", "after", 7),
    "before the journal has its name": (journal_file, "sync", "before", 1),
    "as soon as the journal has its name": (journal_file, "sync", "after", 2),
    "before the number of slots is known": (journal.Journal, "update_header", "before", 1),
    "before the first turn": (journal.Journal, "append", "before", 1),
    "as the last trial's state is to be closed": (Serial, "close", "before", 1),
    "before it is said why the study ended": (Serial, "close", "after", 1),
}


def session_of(folder, point=None):
    child = os.fork()
    if child == 0:
        try:
            if point is not None:
                dying(*POINTS[point])
            hp.Tuner(**arguments(folder, hp.Serial(4), checkpoint_every=0.0, trials=12)).fit()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def left(study):
    "Checkpoint files, and rows without one."
    with journal.Journal.open(study) as found:
        rows = {row.path for row in found.checkpoints()}
        assert found.check() == []
    files = {path.relative_to(study).as_posix() for path in (study / "checkpoints").glob("*/*")}
    return sorted(files ^ rows)


hp.Tuner(**arguments(home / "whole", hp.Serial(4), checkpoint_every=0.0, trials=12)).fit()     # what it imports, the children have already
whole, told = story(home / "whole" / "walk"), {}
for number, point in enumerate(POINTS):
    study = home / str(number) / "walk"
    died = session_of(study.parent, point)
    turns = len(story(study)) if (study / "study.db").exists() else None
    orphans = left(study) if turns else []
    again = session_of(study.parent)
    assert again == 0, point
    assert story(study) == whole, point
    reported, loaded = best_again(study)
    assert reported == loaded, point
    with journal.Journal.open(study) as found:
        said = [note.text for note in found.notes("checkpoint")]
    told[point] = [died, turns, len(orphans), left(study), said]
print(json.dumps({"told": told, "turns": len(whole)}))
"""


def test_a_driver_that_ends_at_any_named_point_leaves_a_study_that_goes_on_to_the_same_story(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(script, str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    swept = 0
    for point, (died, turns, orphans, left, said) in found["told"].items():
        assert died == 9, f"{point}: it was never reached"
        assert turns is None or turns <= found["turns"]
        assert left == [], point
        assert len(said) == (orphans > 0), point
        assert not said or said == [f"{orphans} unrecorded checkpoint files were removed, and 0 records of files that are gone."], point
        swept += orphans
    assert swept >= 3, found
