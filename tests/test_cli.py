"""The command line: what goes to stdout and stderr, exit statuses, and what is imported when."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchtune_hp import cli, cli_run
from torchtune_hp.cli import main
from torchtune_hp.cli_output import UsageError, strict
from torchtune_hp.interrupts import StudyInterrupted
from torchtune_hp.journal import Journal
from torchtune_hp.lock import DriverLock
from torchtune_hp.results import Results
from torchtune_hp.trial import Drop, Failed, Launch, Limits, Note, Reached, Train, Trial

from .interpreters import run as run_script

ROOT = Path(__file__).resolve().parent.parent
HEADER = {
    "name": "digits", "metric": ["a"], "mode": ["max"], "seed": 3, "max_t": 9, "capacity": 2, "outcome_constraints": ["size <= 5"],
    "trainable": {"name": "train", "file": "/x/train.py", "qualname": "train"}, "stop": None,
    "scheduler": {"type": "torchtune_hp.schedulers.asha:ASHA", "args": {"max_t": 9}},
}  # fmt: skip
NASTY = "\x1b[2J[red]\n"


def launch(id: int, **config: Any) -> Launch:
    return Launch(Trial(id, (0.5,), config, id), 1)


def look(id: int, step: int, a: float, **more: Any) -> Reached:
    return Reached(id, step, {"a": a, "size": 1, **more}, float(step))


def made(folder: Path, *turns: tuple[list[Any], list[Any]], **header: Any) -> Path:
    with Journal.create(folder, {**HEADER, "name": folder.name, **header}) as journal:
        for events, commands in turns:
            journal.append(events, Limits(2), commands)
    return folder


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Four trials: one complete, one at rest, one diverged, one that raised."""
    error = f"Traceback (most recent call last):\n  File\nValueError: no {NASTY}"
    return made(
        tmp_path / "runs" / "digits",
        ([], [launch(0, lr=0.5, m={"w": 8}), launch(1, lr=0.25, tags=["x", 1]), launch(2, lr=0.1), launch(3, lr=0.2)]),
        (
            [look(0, 1, 0.5), look(1, 1, 0.25, extra=math.inf), look(2, 1, math.nan), Failed(3, 1, "error", error, 2.0)],
            [Train(0, 9), Drop(2), Drop(3)],
        ),
        ([Reached(0, 9, {"a": 0.123456789, "size": 1, "step": 7}, 75.0), Note("choice", f"two {NASTY}")], [Drop(0)]),
    )  # fmt: skip


@pytest.fixture
def pareto(tmp_path: Path) -> Path:
    return made(
        tmp_path / "runs" / "two",
        ([], [launch(id, lr=id / 2) for id in range(3)]),
        ([look(0, 1, 0.5, b=5), look(1, 1, 0.9, b=9), look(2, 1, 0.4, b=6)], []),
        metric=["a", "b"], mode=["max", "min"], outcome_constraints=[],
    )  # fmt: skip


class Out:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: object) -> tuple[int, str, str]:
        status = main([str(word) for word in argv])
        out, err = self._capsys.readouterr()
        return status, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Out:
    return Out(capsys)


@pytest.fixture(autouse=True)
def as_before(tmp_path: Path) -> Iterator[None]:
    """Imports of the files of a test are undone."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# Usage ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [[], ["nothing"], ["show"], ["export", "x"], ["export", "x", "--to", "xls"], ["run", "x:y", "--mode", "up"], ["show", "x", "--js"]],
)
def test_what_cannot_be_parsed_exits_with_2(run: Out, argv: list[str]) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (2, "") and err.startswith("usage: torchtune-hp")


def test_help_and_version_exit_with_0(run: Out) -> None:
    assert run("--version")[:2] == (0, f"torchtune-hp {cli.__version__}\n")
    status, out, _ = run("--help")
    assert status == 0 and all(word in out for word in ("run", "resume", "ls", "show", "best", "export", "doctor"))
    for command in ("run", "resume", "ls", "show", "best", "export", "doctor"):
        assert run(command, "--help")[0] == 0


@pytest.mark.parametrize("command", [["show"], ["best"], ["export", "--to", "csv"], ["resume"]])
def test_a_folder_that_is_no_study_is_an_error_on_stderr(run: Out, tmp_path: Path, command: list[str]) -> None:
    status, out, err = run(command[0], tmp_path / "nope", *command[1:])
    assert (status, out) == (2, "") and err.startswith("torchtune-hp: A study is a folder with a study.db") and err.count("\n") == 1


def test_a_file_that_is_no_journal_is_an_error(run: Out, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("garbage" * 1000)
    status, out, err = run("show", tmp_path)
    assert (status, out) == (2, "") and "study.db" in err and "Traceback" not in err


def test_a_traceback_is_shown_where_it_is_asked_for(run: Out, tmp_path: Path) -> None:
    status, _, err = run("show", tmp_path, "--traceback")
    assert status == 2 and err.startswith("Traceback") and "StudyNotFoundError" in err


@pytest.mark.parametrize(
    "error, status, text",
    [
        (StudyInterrupted("stopped \x1b[2J", signal.SIGTERM), 143, "torchtune-hp: stopped ?[2J\n"),
        (StudyInterrupted("stopped", signal.SIGINT), 130, "torchtune-hp: stopped\n"),
        (StudyInterrupted("stopped", 0), 130, "torchtune-hp: stopped\n"),
        (KeyboardInterrupt(), 130, "torchtune-hp: interrupted\n"),
        (ZeroDivisionError("oh"), 1, "torchtune-hp: ZeroDivisionError: oh (an unexpected error; --traceback shows where it came from)\n"),
        (PermissionError(13, "no", "f"), 2, "torchtune-hp: [Errno 13] no: 'f'\n"),
        (UsageError("a\n\tb"), 2, "torchtune-hp: a\n    b\n"),
    ],
)  # fmt: skip
def test_each_error_has_its_status_and_one_message(
    run: Out, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, text: str
) -> None:
    def fails(*arguments: Any) -> int:
        raise error

    monkeypatch.setattr("torchtune_hp.cli_read.ls", fails)
    assert run("ls") == (status, "", text)


def test_a_reader_that_has_seen_enough_is_no_error(digits: Path) -> None:
    code = f"import sys; from torchtune_hp.cli import main; sys.exit(main(['export', {str(digits)!r}, '--to', 'csv']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_reading_commands_load_no_torch_and_nothing_a_study_names(digits: Path) -> None:
    code = (
        "import sys, contextlib, io\nfrom torchtune_hp.cli import main\n"
        f"d = {str(digits)!r}\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    codes = [main(['ls', d + '/..']), main(['show', d]), main(['best', d]), main(['export', d, '--to', 'csv'])]\n"
        "assert codes == [0] * 4, codes\n"
        "assert not {'torch', 'rich', 'numpy', 'pandas', 'train'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


# ls -------------------------------------------------------------------------------------------------------------------------


def test_ls_lists_studies_by_when_they_were_last_written(run: Out, digits: Path, pareto: Path) -> None:
    for folder, when in ((digits, 2_000_000_000), (pareto, 1_000_000_000)):
        for file in folder.iterdir():
            os.utime(file, (when, when))
    (digits.parent / "other").mkdir()
    status, out, err = run("ls", digits.parent)
    head, *rows = out.splitlines()
    assert (status, err) == (0, "") and head.split() == ["name", "trials", "states", "best", "when"]
    assert [row.split()[0] for row in rows] == ["two", "digits"]
    assert "3  3 resting" in rows[0] and "2001-09-0" in rows[0]
    assert "4  1 resting, 1 completed, 2 failed  a 0.5" in rows[1] and "2033-05-1" in rows[1]


def test_ls_lists_on_where_a_driver_removes_its_log_meanwhile(run: Out, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: True)      # it was there when it was asked for
    assert [row.split()[0] for row in run("ls", digits.parent)[1].splitlines()] == ["name", "digits"]


def test_ls_as_json(run: Out, digits: Path) -> None:
    (study,) = json.loads(run("ls", digits.parent, "--json")[1])
    assert study.pop("modified") == (digits / "study.db").stat().st_mtime
    assert study == {
        "name": "digits", "path": str(digits), "trials": 4, "states": {"completed": 1, "failed": 2, "resting": 1},
        "best": {"metric": "a", "value": 0.5, "trial": 0, "step": 1},
    }  # fmt: skip


def test_a_study_that_cannot_be_read_is_listed_as_that_and_not_as_an_empty_one(run: Out, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "study.db").write_text("garbage" * 1000)
    status, out, _ = run("ls", tmp_path)
    assert status == 0 and out.splitlines()[1].startswith("bad   -       unreadable: file is not a database. It is not")
    (study,) = json.loads(run("ls", tmp_path, "--json")[1])
    assert study["trials"] is None and study["best"] is None and "left as it is" in study["error"]


def test_a_storage_without_studies(run: Out, tmp_path: Path) -> None:
    assert run("ls", tmp_path) == (0, f"no studies in {tmp_path}\n", "")
    assert run("ls", tmp_path, "--json")[:2] == (0, "[]\n")
    status, out, err = run("ls", tmp_path / "nope")
    assert (status, out) == (2, "") and "nope is no folder" in err


def test_ls_shows_no_best_where_there_is_none(run: Out, tmp_path: Path) -> None:
    made(tmp_path / "s", ([], [launch(0)]), ([look(0, 1, math.nan)], []))
    assert json.loads(run("ls", tmp_path, "--json")[1])[0]["best"] is None
    assert run("ls", tmp_path)[1].splitlines()[1].startswith("s          1  1 resting        20")


def test_trials_under_way_are_running_while_a_driver_lives_and_interrupted_without_one(run: Out, tmp_path: Path) -> None:
    study = made(tmp_path / "s", ([], [launch(0), launch(1)]), ([look(0, 1, 0.5)], [Train(0, 2)]))

    def states() -> list[str]:
        (listed,), shown = json.loads(run("ls", tmp_path, "--json")[1]), json.loads(run("show", study, "--json")[1])
        best = json.loads(run("best", study, "--json")[1])
        assert listed["states"] == shown["states"] and shown["top"][0]["state"] == best["state"] == shown["best"]["state"]
        assert f"2 {best['state']}" in run("ls", tmp_path)[1] and f"2: 2 {best['state']}" in run("show", study)[1]
        assert f"step 1, {best['state']}" in run("best", study)[1]
        return [*listed["states"], best["state"]]

    assert states() == ["interrupted"] * 2
    with DriverLock(study):
        assert states() == ["running"] * 2
    assert states() == ["interrupted"] * 2


def test_ls_looks_in_runs(run: Out, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits.parent.parent)
    assert "digits" in run("ls")[1]


# show and best ----------------------------------------------------------------------------------------------------------------


def test_show(run: Out, digits: Path) -> None:
    status, out, err = run("show", digits)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "name                 digits",
        f"folder               {digits}",
        "trainable            train (/x/train.py)",
        "goal                 a max",
        "outcome_constraints  size <= 5",
        "scheduler            ASHA(max_t=9)",
        "seed                 3",
        "capacity             2",
        "max_t                9",
        "trials   4: 1 resting, 1 completed, 2 failed (1 diverged, 1 error)",
        "reports  4 in 01:15 of study time",
        "",
        "best",
        "  #  trial  step     a    lr  m.w  tags",
        "  1      0     1   0.5   0.5    8",
        "  2      1     1  0.25  0.25       ['x', 1]",
        "",
        "errors",
        "  trial 2  diverged: DivergedError: a = nan, size = 1 at step 1",
        "  trial 3  error: ValueError: no ?[2J[red]",
        "",
        "notes",
        "  choice  two ?[2J[red]?",
    ]


def test_show_as_json(run: Out, digits: Path) -> None:
    status, out, _ = run("show", digits, "--json")
    study = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert status == 0 and study["settings"]["seed"] == 3 and study["trials"] == 4 and study["reports"] == 4
    assert study["states"] == {"completed": 1, "failed": 2, "resting": 1} and study["seconds"] == 75.0
    best = {"trial": 0, "state": "completed", "step": 1, "config": {"lr": 0.5, "m": {"w": 8}}, "metrics": {"a": 0.5, "size": 1}}
    assert study["best"] == best == study["top"][0] and study["top"][1]["metrics"]["extra"] == "Infinity"
    assert [(error["trial"], error["kind"]) for error in study["errors"]] == [(2, "diverged"), (3, "error")]
    assert study["notes"] == [{"kind": "choice", "text": f"two {NASTY}", "trial": None, "seconds": 0.0}]


def test_show_says_how_many_trials_share_a_stack(run: Out, tmp_path: Path) -> None:
    texts = ("stacks", "1 trials per stack"), ("stack", "Net: stack 1"), ("stacks", "8 trials per stack ([red])")
    notes = [Note(kind, text) for kind, text in texts]
    study = made(tmp_path / "s", (notes, [launch(0)]), ([look(0, 1, 0.5)], []))
    lines = run("show", study)[1].splitlines()
    assert "stacks   8 trials per stack ([red])" in lines and lines[-1] == "  stack  Net: stack 1"
    assert json.loads(run("show", study, "--json")[1])["members_per_stack"] == "8 trials per stack ([red])"


def test_show_of_several_objectives_shows_the_front(run: Out, pareto: Path) -> None:
    out = run("show", pareto)[1]
    table = ["front", "  #  trial  step    a  b   lr", "  1      1     1  0.9  9  0.5", "  2      0     1  0.5  5    0"]
    assert out.splitlines()[-4:] == table
    study = json.loads(run("show", pareto, "--json")[1])
    assert study["best"] is None and [entry["trial"] for entry in study["pareto"]] == [1, 0] and "top" not in study


def test_show_says_how_many_more_there_are(run: Out, tmp_path: Path) -> None:
    many = made(tmp_path / "s", ([Note("k", str(i)) for i in range(21)], []), trainable=None, name="s")
    lines = run("show", many)[1].splitlines()
    assert lines[2] == "trainable            ?" and lines[-1] == "  and 1 more (--json has all)" and lines[-2] == "  k  19"
    assert "trials   0: none" in lines


def test_a_table_fits_a_terminal_and_is_whole_in_a_pipe(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "34")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        main(["show", str(digits)])
    assert "  #  trial  step     a    lr  +2" in terminal.getvalue().splitlines()


def test_best(run: Out, digits: Path) -> None:
    lines = ["trial 0, step 1, completed", "config", "  lr   0.5", "  m.w  8", "metrics", "  a     0.5", "  size  1"]
    assert run("best", digits) == (0, "\n".join(lines) + "\n", "")
    assert json.loads(run("best", digits, "--json")[1])["config"] == {"lr": 0.5, "m": {"w": 8}}


def test_best_writes_all_digits(run: Out, tmp_path: Path) -> None:
    out = run("best", made(tmp_path / "s", ([], [launch(0, lr=0.1 + 0.2)]), ([look(0, 1, 1 / 3)], [])))[1]
    assert "  lr  0.30000000000000004\n" in out and "  a     0.3333333333333333\n" in out


def test_best_of_several_objectives_is_the_front(run: Out, pareto: Path) -> None:
    table = ["#  trial  step    a  b   lr", "1      1     1  0.9  9  0.5", "2      0     1  0.5  5    0"]
    assert run("best", pareto)[1].splitlines() == table
    assert [entry["trial"] for entry in json.loads(run("best", pareto, "--json")[1])["pareto"]] == [1, 0]


def test_best_of_nothing_exits_with_1(run: Out, tmp_path: Path) -> None:
    one = made(tmp_path / "one", ([], [launch(0)]), ([look(0, 1, math.nan)], [Drop(0)]))
    two = made(tmp_path / "two", metric=["a", "b"], mode=["max", "min"], outcome_constraints=[])
    for folder in (one, two):
        for flags in ([], ["--json"]):
            status, out, err = run("best", folder, *flags)
            assert (status, out) == (1, "") and err.startswith(f"torchtune-hp: {folder}: ") and "unexpected" not in err


def test_json_is_strict() -> None:
    value = {1: [math.nan, (math.inf, -math.inf)], "x": {"y": 1.5, "z": True}, "n": None, "s": "t"}
    assert strict(value) == {"1": ["NaN", ["Infinity", "-Infinity"]], "x": {"y": 1.5, "z": True}, "n": None, "s": "t"}


# export -----------------------------------------------------------------------------------------------------------------------


def test_export_of_trials_has_a_row_for_each_with_its_best_report(run: Out, digits: Path) -> None:
    status, out, err = run("export", digits, "--to", "csv")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "trial,state,step,time,a,size,extra,config.lr,config.m.w,config.tags",
        "0,completed,1,1.0,0.5,1,,0.5,8,",
        '1,resting,1,1.0,0.25,1,inf,0.25,,"[""x"",1]"',
        "2,failed,1,1.0,nan,1,,0.1,,",
        "3,failed,,,,,,0.2,,",
    ]


def test_export_of_reports_has_a_row_for_each(run: Out, digits: Path, tmp_path: Path) -> None:
    status, out, err = run("export", digits, "--to", "csv", "--reports", "-o", tmp_path / "out.csv")
    assert (status, out, err) == (0, "", "")
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert [(row["trial"], row["step"], row["a"], row["metrics.step"]) for row in rows] == [
        ("0", "1", "0.5", ""), ("1", "1", "0.25", ""), ("2", "1", "nan", ""), ("0", "9", "0.123456789", "7"),
    ]  # fmt: skip
    assert rows[3]["config.m.w"] == "8" and rows[3]["time"] == "75.0"


def test_a_trial_that_ends_without_a_further_report_has_no_row_for_its_end(run: Out, tmp_path: Path) -> None:
    """It says so by its last report again. One that ends with a report has that one, and a fork counts on from its parent's step."""
    folder = made(
        tmp_path / "s",
        ([], [launch(0), launch(1), launch(2)]),
        ([look(0, 1, 0.5), look(1, 1, 0.2)], [Train(0, 2), Launch(Trial(3, (0.5,), {}, 3, parent=1), 2)]),
        ([look(0, 2, 0.7), replace(look(1, 1, 0.2), done=True), replace(look(2, 1, 0.3), done=True)], [Train(0, 3)]),
        ([replace(look(0, 2, 0.7), done=True), replace(look(3, 1, 0.1), done=True)], []),
    )
    assert run("export", folder, "--to", "csv", "--reports", "-o", tmp_path / "out.csv")[0] == 0
    rows = [(int(row["trial"]), int(row["step"]), float(row["a"])) for row in csv.DictReader((tmp_path / "out.csv").open(newline=""))]
    assert rows == [(0, 1, 0.5), (1, 1, 0.2), (0, 2, 0.7), (2, 1, 0.3), (3, 1, 0.1)]
    assert json.loads(run("show", folder, "--json")[1])["reports"] == len(rows)
    assert any(line.startswith("reports  5 in ") for line in run("show", folder)[1].splitlines())
    with Results.open(folder) as results:
        curves = results.curves()
    assert sorted((trial, report["step"], report["a"]) for trial, curve in curves.items() for report in curve) == sorted(rows)


def test_what_a_trial_reports_under_a_name_of_ours_is_shown(run: Out, tmp_path: Path) -> None:
    folder = made(tmp_path / "s", ([], [launch(0)]), ([look(0, 1, 0.5, done=7, training_iteration=3)], []))
    metrics = {"a": 0.5, "size": 1, "done": 7, "training_iteration": 3}
    assert json.loads(run("best", folder, "--json")[1])["metrics"] == metrics
    assert run("best", folder)[1].splitlines()[-2:] == ["  done                7", "  training_iteration  3"]


def test_export_of_several_objectives_shows_the_kept_report_as_the_frame_does(run: Out, tmp_path: Path) -> None:
    turns: list[Any] = [([], [launch(0)]), ([look(0, 1, 0.9, b=1)], [Train(0, 2)]), ([look(0, 2, 0.1, b=2)], [])]
    folder = made(tmp_path / "s", *turns, metric=["a", "b"], mode=["max", "min"], outcome_constraints=[])
    with Journal.open(folder, write=True) as journal:
        journal.add_checkpoint(0, 1, "keep", "x", 1, "", "state")
    assert run("export", folder, "--to", "csv")[1].splitlines()[1].startswith("0,resting,1,1.0,0.9,")
    with Results.open(folder) as results:
        assert [fixed for fixed, _, _ in results.records()] == [(0, "resting", 1, 1.0)]


def test_export_of_several_objectives_shows_the_last_report(run: Out, tmp_path: Path) -> None:
    turns: list[Any] = [([], [launch(0)]), ([look(0, 1, 0.9, b=1)], [Train(0, 2)]), ([look(0, 2, 0.1, b=2)], [])]
    folder = made(tmp_path / "s", *turns, metric=["a", "b"], mode=["max", "min"], outcome_constraints=[])
    assert run("export", folder, "--to", "csv")[1].splitlines()[1].startswith("0,resting,2,2.0,0.1,")


def test_an_output_that_cannot_be_written_is_an_error(run: Out, digits: Path, tmp_path: Path) -> None:
    status, _, err = run("export", digits, "--to", "csv", "-o", tmp_path / "no" / "out.csv")
    assert status == 2 and "No such file" in err


# run and resume ---------------------------------------------------------------------------------------------------------------

TRAIN = """
import math
import torchtune_hp as hp

@hp.trainable(space={"lr": hp.uniform(0, 1)}, metric="a", mode="max")
def train(config):
    for step in range(3):
        yield {"a": config["lr"] * (step + 1), "b": 1.0}

@hp.trainable(space={"lr": hp.uniform(0, 1)}, metric="a", mode="max")
def nan(config):
    yield {"a": math.nan}

@hp.trainable(space={"lr": hp.uniform(0, 1)}, metric="a", mode="max")
def fails(config):
    raise ValueError("broken on purpose")

@hp.trainable(space={"lr": hp.uniform(0, 1), "x": hp.sample_from(lambda config: 2 * config["lr"])}, metric="a", mode="max")
def lambdas(config):
    yield {"a": config["x"]}

def plain(config):
    yield {"a": config["lr"], "b": config["lr"]}

@hp.trainable(space={"lr": hp.uniform(0, 1)}, metric="a", mode="max", seed=5, trials=1)
def seeded(config):
    yield {"a": 1.0}

class Holder:
    tuner = hp.Tuner(train, trials=2, storage="runs", name="held", executor=hp.Serial())

def local():
    def train(config):
        yield {"a": 1.0}
    return train

tuned = hp.Tuner(local(), {"lr": hp.uniform(0, 1)}, metric="a", mode="max", trials=2, storage="runs", name="local", executor=hp.Serial())
simulated = hp.Tuner(
    None, {"lr": hp.uniform(0, 1)}, metric="a", mode="max", trials=2, storage="runs", name="sim", scheduler=hp.FullRuns(max_t=2),
    executor=hp.Simulated(2, curve=lambda config, step: {"a": config["lr"]}),
)
number = 5
"""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with train_file.py, where the test works in."""
    (tmp_path / "train_file.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def serial(target: str, *more: object) -> tuple[object, ...]:
    return ("run", f"train_file.py:{target}", "--executor", "serial", *more)


def test_run_writes_the_folder_to_stdout_and_progress_to_stderr(run: Out, train: Path) -> None:
    status, out, err = run(*serial("train", "--trials", 3, "--name", "x", "--seed", 5))
    assert (status, out) == (0, "runs/x\n") and "x: 3 trials in" in err and "best a:" in err
    with Results.open(train / "runs" / "x") as results:
        assert len(results) == 3 and results.header["seed"] == 5
        assert results.header["trainable"]["file"] == str(train / "train_file.py") and results.header["trainable"]["qualname"] == "train"


def test_a_quiet_run_says_nothing_on_stderr(run: Out, train: Path) -> None:
    assert run(*serial("train", "--trials", 1, "--quiet", "--storage", "else")) == (0, "else/train-1\n", "")


def test_a_searcher_is_named_as_the_field_does(run: Out, train: Path) -> None:
    assert run(*serial("train", "--trials", 2, "--name", "x", "--searcher", "sobol", "--quiet"))[0] == 0
    with Results.open("runs/x") as results:
        assert results.header["searcher"]["type"].endswith(":SobolSearch")
    status, _, err = run(*serial("train", "--trials", 2, "--searcher", "bayes"))
    assert status == 2 and "--searcher: invalid choice: 'bayes'" in err
    (train / "grid.yaml").write_text("lr: {choice: [0.1, 0.2, 0.3]}")
    goal = ["--metric", "a", "--mode", "max"]
    assert run(*serial("plain", *goal, "--searcher", "grid", "--space", "grid.yaml", "--name", "g", "--quiet"))[0] == 0
    with Results.open("runs/g") as results:
        assert sorted(result.config["lr"] for result in results) == [0.1, 0.2, 0.3]
    status, _, err = run(*serial("train", "--searcher", "grid"))        # of a continuum
    assert status == 2 and "a grid needs an axis" in err


def test_a_misspelt_metric_fails_trials_with_the_near_name(run: Out, train: Path) -> None:
    (train / "s.yaml").write_text("lr: {uniform: [0, 1]}")
    goal = ["--metric", "aa", "--mode", "max"]
    status, out, err = run(*serial("plain", *goal, "--space", "s.yaml", "--trials", 20, "--name", "x", "--quiet"))
    assert (status, out) == (1, "") and "the metric 'aa' must be in every report" in err and "Did you mean 'a'?" in err
    with Results.open("runs/x") as results:
        assert {error.kind for error in results.errors} == {"bad_metric"} and len(results) == 5


def test_run_in_a_terminal_leaves_the_folder_to_the_summary(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        assert main([str(word) for word in serial("train", "--trials", 1, "--quiet")]) == 0
    assert terminal.getvalue() == ""


def test_run_with_everything_typed(run: Out, train: Path) -> None:
    (train / "space.yaml").write_text("lr: {uniform: [0, 1]}")
    goals = ["--metric", "a", "--metric", "b", "--mode", "max", "--mode", "min"]
    status, _, err = run(*serial("plain", "--trials", 4, "--space", "space.yaml", *goals, "--scheduler", "full", "--name", "y", "--quiet"))
    assert (status, err) == (0, "")
    with Results.open(train / "runs" / "y") as results:
        assert results.header["metric"] == ["a", "b"] and results.header["mode"] == ["max", "min"] and len(results) == 4


def test_what_is_typed_goes_before_the_decorators_though_it_is_the_default(run: Out, train: Path) -> None:
    for typed, seed in ((("--seed", 0), 0), ((), 5)):
        status, out, _ = run(*serial("seeded", "--quiet", *typed))
        with Results.open(out.strip()) as results:
            assert (status, results.header["seed"], len(results)) == (0, seed, 1)


def test_a_name_that_is_taken_says_how_to_go_on_and_resume_goes_on(run: Out, train: Path) -> None:
    typed = serial("train", "--trials", 2, "--name", "x", "--quiet")
    assert run(*typed)[0] == 0
    status, _, err = run(*typed)
    assert status == 2 and "torchtune-hp resume runs/x" in err
    assert run(*typed, "--resume")[0] == 0


def test_run_of_a_tuner_takes_what_is_typed_before_its_own(run: Out, train: Path) -> None:
    assert run("run", "train_file.py:Holder.tuner")[:2] == (0, "runs/held\n")
    assert run("run", "train_file.py:Holder.tuner", "--name", "more", "--trials", 5, "--quiet") == (0, "runs/more\n", "")
    with Results.open("runs/held") as held, Results.open("runs/more") as more:
        assert (len(held), len(more)) == (2, 5)


def test_a_tuner_that_goes_on_with_a_study_takes_nothing_more(run: Out, train: Path) -> None:
    run("run", "train_file.py:Holder.tuner", "--quiet")
    text = "import torchtune_hp as hp, train_file\non = hp.Tuner.resume('runs/held', train_file.train, trials='+1', verbose=0)\n"
    (train / "going_on.py").write_text(text)
    status, _, err = run("run", "going_on.py:on", "--seed", 3)
    assert status == 2 and "goes on with a study" in err and "seed" in err
    assert run("run", "going_on.py:on") == (0, "runs/held\n", "")


def test_a_study_without_a_result_exits_with_1(run: Out, train: Path) -> None:
    status, out, err = run(*serial("nan", "--trials", 2, "--quiet"))
    assert (status, out) == (1, "") and "no trial succeeded (2 trials, 2 failed). The first failure, of trial 0: DivergedError" in err


def test_a_study_whose_trials_all_fail_exits_with_1_and_the_first_traceback(run: Out, train: Path) -> None:
    status, out, err = run(*serial("fails", "--trials", 20, "--quiet"))
    assert (status, out) == (1, "") and "broken on purpose" in err and 'raise ValueError("broken on purpose")' in err


def test_resume_finds_the_file_again_and_says_which_it_loads(run: Out, train: Path) -> None:
    run(*serial("train", "--trials", 2, "--name", "x", "--quiet"))
    status, out, err = run("resume", "runs/x", "--trials", "+2", "--quiet")
    assert (status, out, err) == (0, "runs/x\n", f"loading {train / 'train_file.py'}:train\n")
    assert run("resume", "runs/x", "train_file.py:train", "--trials", "5", "--target", "100", "--time-budget", "+60", "--quiet")[0] == 0
    with Results.open("runs/x") as results:
        limits = results.journal.last_limits()
        assert len(results) == 5 and limits is not None and limits.target == 100.0 and limits.seconds is not None and limits.seconds > 60


def test_resume_that_asks_for_less_or_for_no_number_is_an_error(run: Out, train: Path) -> None:
    run(*serial("train", "--trials", 2, "--name", "x", "--quiet"))
    status, _, err = run("resume", "runs/x", "--trials", 1)
    assert status == 2 and "there are 2 already" in err
    status, _, err = run("resume", "runs/x", "--trials", "many")
    assert status == 2 and "got 'many'" in err


def test_resume_of_a_file_that_is_gone_shows_the_command_to_type(run: Out, train: Path) -> None:
    run(*serial("train", "--trials", 2, "--name", "x", "--quiet"))
    (train / "train_file.py").rename(train / "moved.py")
    status, _, err = run("resume", "runs/x")
    assert status == 2 and "is not there" in err and "torchtune-hp resume runs/x train_file.py:train" in err
    assert run("resume", "runs/x", "moved.py:train", "--trials", "+1", "--quiet")[0] == 0


def test_resume_of_something_local_asks_where_it_is(run: Out, train: Path) -> None:
    assert run("run", "train_file.py:tuned", "--quiet")[0] == 0
    status, _, err = run("resume", "runs/local")
    assert status == 2 and "not defined at the top of a file" in err and "torchtune-hp resume runs/local train_file.py:NAME" in err


def test_resume_brings_along_what_the_journal_cannot_give_back(run: Out, train: Path) -> None:
    assert run(*serial("lambdas", "--trials", 2, "--name", "x", "--quiet"))[0] == 0
    assert run("resume", "runs/x", "--trials", "+1", "--quiet")[0] == 0
    with Results.open("runs/x") as results:
        assert len(results) == 3 and all(result.metrics["a"] == 2 * result.config["lr"] for result in results)


def test_of_a_tuner_only_what_cannot_be_rebuilt_goes_along(run: Out, train: Path) -> None:
    assert run("run", "train_file.py:simulated", "--quiet") == (0, "runs/sim\n", "")
    status, _, err = run("resume", "runs/sim")
    assert status == 2 and "executor" in err
    own = cli_run.load("train_file.py:simulated")._given
    with Results.open("runs/sim") as results:
        assert cli_run._not_rebuilt(results.header, own) == {"executor": own["executor"]}
        assert cli_run._not_rebuilt(results.header, {}) == {}


@pytest.mark.parametrize(
    "target, text",
    [
        ("train_file.py", "FILE:NAME is needed, such as train.py:train, but got 'train_file.py'."),
        (":train", "FILE:NAME is needed"),
        ("train_file.py:", "FILE:NAME is needed"),
        ("nope.py:train", "nope.py: there is no such file."),
        ("space.txt:train", "a Python file is needed"),
        ("a.b.py:train", "a Python file is needed"),
        ("train_file.py:trian", "train_file.py has no 'trian'. It has: train, "),
        ("empty.py:train", "empty.py has no 'train'. It has: nothing that could be tuned."),
        ("broken.py:train", "broken.py cannot be imported: ZeroDivisionError: division by zero (--traceback shows where)"),
        ("leaves.py:train", "leaves.py cannot be imported: SystemExit: 3"),
        ("json.py:train", "has the name of another module, json: give the file another name."),
        ("train_file.py:number", "but got 5"),
    ],
)
def test_a_target_that_cannot_be_loaded_says_why(run: Out, train: Path, target: str, text: str) -> None:
    files = {"space.txt": "", "a.b.py": "", "empty.py": "", "broken.py": "1 / 0", "leaves.py": "raise SystemExit(3)", "json.py": ""}
    for name, content in files.items():
        (train / name).write_text(content)
    status, out, err = run("run", target)
    assert (status, out) == (2, "") and text in err and "Traceback" not in err


def test_a_file_of_a_package_is_imported_as_one(train: Path) -> None:
    (train / "pack").mkdir()
    (train / "pack" / "__init__.py").touch()
    (train / "pack" / "one.py").write_text("from .two import value\n")
    (train / "pack" / "two.py").write_text("value = print\n")
    assert cli_run.load("pack/one.py:value") is print and sys.path[0] == str(train)
    assert cli_run.load("train_file.py:plain").__module__ == "train_file"


@pytest.mark.parametrize(
    "typed, text",
    [
        (["--workers", "2", "--executor", "serial"], "--workers"),
        (["--space", "nope.yaml"], "--space: nope.yaml cannot be read"),
        (["--space", "bad.yaml"], "lr"),
        (["--trials", "0"], "trials"),
        (["--max-t", "0"], "max_t"),
    ],
)
def test_arguments_that_cannot_be_are_errors_of_usage(run: Out, train: Path, typed: list[str], text: str) -> None:
    (train / "bad.yaml").write_text("lr: {uniform: [1, 0]}")
    status, out, err = run("run", "train_file.py:train", "--trials", 1, *typed)
    assert (status, out) == (2, "") and text in err and "unexpected" not in err


def test_words_become_the_parts_they_name() -> None:
    names = {"asha": "ASHA", "hyperband": "Hyperband", "halving": "SuccessiveHalving", "median": "MedianStopping", "full": "FullRuns"}
    for word, name in names.items():
        assert type(cli_run._scheduler(word, 16)).__name__ == name and cli_run._scheduler(word, 16).max_t == 16
    searchers = {"random": "RandomSearch", "grid": "GridSearch", "sobol": "SobolSearch", "gp": "GPSearch"}
    assert {word: type(cli_run._searcher(word)).__name__ for word in searchers} == searchers and cli_run._searcher(None) is None
    assert cli_run._scheduler("asha", None).max_t == 100 and type(cli_run._scheduler(None, 7)).__name__ == "FullRuns"
    assert cli_run._scheduler(None, None) is None and cli_run._executor(None, None) is None
    assert type(cli_run._executor("serial", None)).__name__ == "Serial"
    for name, workers, want in (("processes", None, "auto"), ("processes", 2, 2), (None, 3, 3)):
        made = cli_run._executor(name, workers)
        assert type(made).__name__ == "Processes" and made.workers == want


def test_a_signal_ends_a_run_with_its_status_and_the_command_to_go_on(train: Path) -> None:
    (train / "signals.py").write_text(
        "import os, signal\nimport torchtune_hp as hp\n"
        "@hp.trainable(space={'lr': hp.uniform(0, 1)}, metric='a', mode='max')\n"
        "def train(config):\n    os.kill(os.getpid(), signal.SIGTERM)\n    yield {'a': 1.0}\n"
    )
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        status = main(["run", "signals.py:train", "--trials", "3", "--executor", "serial", "--name", "x"])
    assert status == 143 and "torchtune-hp resume runs/x" in error.getvalue()


UNGUARDED = """
import torchtune_hp as hp

def train(config):
    for step in range(3):
        hp.report(loss=config["x"] + step)

space = {"x": hp.uniform(0.0, 1.0)}
results = hp.Tuner(train, space, metric="loss", mode="min", trials=3, name="unguarded", verbose=0).fit()
print("ended", len(results))
"""


def test_a_script_that_starts_its_study_at_top_level_is_read_and_not_run_again(tmp_path: Path) -> None:
    """Slow: the command that resumes and its fork server each import torch."""
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    started = run_script(script, folder=tmp_path)
    assert started.returncode == 0 and "ended 3" in started.stdout, started.stderr
    command = [sys.executable, "-m", "torchtune_hp", "resume", "runs/unguarded", "--trials", "+2", "--quiet"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "ended" not in again.stdout and [path.name for path in (tmp_path / "runs").iterdir()] == ["unguarded"]
    with Journal.open(tmp_path / "runs" / "unguarded") as journal:
        assert journal.trials() == 5


def test_a_worker_starts_no_study_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchtune_hp import ConfigurationError, Serial, tune
    from torchtune_hp.executors.worker import IN_WORKER

    monkeypatch.setenv(IN_WORKER, "1")
    with pytest.raises(ConfigurationError, match="__main__"):
        tune(lambda config: {"loss": 1.0}, {"x": _domain()}, metric="loss", mode="min", trials=1, storage=None, executor=Serial())


def _domain() -> object:
    from torchtune_hp import uniform

    return uniform(0.0, 1.0)
