"""Every example runs as a user would run it: as a script, in a folder of its own, with nothing but its name.

All of them are slow for a test, for each is a process that imports torch and scikit-learn, and most start a fork server that
imports torch once more: several seconds before anything is trained.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

LINES = {
    "ask_tell": r"best of 30 trials in \d+ steps instead of 810: loss 0\.4\d+ with \{'lr': .*\}",
    "cross_validation": r"mean difference between the two in accuracy: 0\.000\d",
    "digits_demo": r"Its test accuracy: +(0\.9[789]\d\d|1\.0000)",        # the slowest: 64 trainings, the whole of the demo
    "ensemble": r"32 plain modules from runs.ensemble\.pt predict the same: True",
    "function": r"best \{'lr': .*\}: loss (\S+) when reported, \1 with the weights that were kept",
    "gp_in_one_dimension": r"best of 10 trials: learning rate \S+, loss 0\.3[567]\d, of 0\.350 at best; see runs.gp_in_one_dimension\.html",
    "generator": r"best of 30: .*, accuracy 0\.9\d\d; trials: \{'completed': \d+, 'stopped': \d+\}",
    "model_trainable": r"validation: auc 0\.99\d\d; test: accuracy 0\.9\d\d\d, auc 0\.9\d\d\d",
    "own_scheduler": r"best loss 0\.0\d+; trials: \{'completed': \d+, 'stopped': \d+\}",
    "resume_after_kill": r"every report of all 40 trials is the same: True",
    "simulated_cluster": r"ASHA +best error 0\.0\d+ of 5000 trials, \d+\.\d virtual hours, \d+\.\d real seconds",
    "trainable": r"best after \d+ steps: loss (\S+) when reported, \1 with the weights that were kept",
}

NEEDS = {"gp_in_one_dimension": "plotly"}
"""Packages of an extra, without which an example is not run."""


def python(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", LINES)
def test_an_example_runs_to_its_end_and_says_what_it_should(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    ran = python(EXAMPLES / f"{name}.py", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert any(re.fullmatch(LINES[name], line) for line in ran.stdout.splitlines()), ran.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "studies lie in runs/, and nothing else is left"


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_without_its_package_names_the_extra(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{NEEDS[name]}.py").write_text("raise ImportError('not here')")
    ran = python("-c", f"import sys; sys.path.insert(0, '.'); exec(open({str(EXAMPLES / f'{name}.py')!r}).read())", folder=tmp_path)
    assert ran.returncode == 1 and re.search(r'^ImportError: .* pip install "torchtune-hp\[plots\]"$', ran.stderr, re.MULTILINE), ran.stderr


def test_every_example_is_run() -> None:
    assert sorted(LINES) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_the_scheduler_of_the_example_passes_the_shipped_suite(tmp_path: Path) -> None:
    ran = python("-m", "pytest", "-p", "no:cacheprovider", EXAMPLES / "own_scheduler.py", folder=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^\d\d+ passed", ran.stdout, re.MULTILINE), ran.stdout


@pytest.mark.parametrize("name", sorted(set(LINES) - {"digits_demo", "own_scheduler"}))
def test_no_example_guards_itself_against_its_worker_processes(name: str) -> None:
    assert "__main__" not in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
