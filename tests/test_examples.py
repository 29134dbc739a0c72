"""Every example runs as a user would run it: as a script, in a folder of its own, with nothing but its name.

`function` has an interpreter of its own, and so have its workers and the child of `resume_after_kill`; the others are forked from one
that has torch (interpreters.py), for otherwise each would import it for seconds, and its fork server once more. Three are run in
a smaller size; the demo stays the slowest, with 17 trainings of 27 epochs at most.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .interpreters import run

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

LINES = {
    "ask_tell": r"best of 30 trials in \d+ steps instead of 810: loss 0\.4\d+ with \{'lr': .*\}",
    "character_transformer": r"the best of 16: [34]\.\d\d\d bits a letter, with \{'lr': .*\}",
    "cross_validation": r"mean difference between the two in accuracy: 0\.000\d",
    "digits_demo": r"Its test accuracy: +(0\.9[789]\d\d|1\.0000)",
    "ensemble": r"32 plain modules from runs.ensemble\.pt predict the same: True",
    "folds": r"on the test set its five models have an AUC of 0\.99\d\d on average, and a vote of them is right on 9\d\.\d%",
    "function": r"best \{'lr': .*\}: loss (\S+) when reported, \1 with the weights that were kept",
    "gp_in_one_dimension": r"best of 10 trials: learning rate \S+, loss 0\.3[567]\d, of 0\.350 at best; see runs.gp_in_one_dimension\.html",
    "generator": r"best of 30: .*, accuracy 0\.9\d\d; trials: \{'completed': \d+, 'stopped': \d+\}",
    "head_search": r"accuracy on digits that neither the backbone nor the search has seen: 0\.9\d\d\d",
    "matrix_factorization": r"squared error of the 70 % that nobody saw: 0\.0[67]\d\d; of the mean of all: 0\.1415",
    "model_trainable": r"validation: auc 0\.99\d\d; test: accuracy 0\.9\d\d\d, auc 0\.9\d\d\d",
    "own_scheduler": r"best loss 0\.0\d+; trials: \{'completed': \d+, 'stopped': \d+\}",
    "resume_after_kill": r"every report of all 40 trials is the same: True",
    "simulated_cluster": r"ASHA +best error 0\.0\d+ of 5000 trials, \d+\.\d virtual hours, \d+\.\d real seconds",
    "trainer": r"best of 60: \{'lr': .*\}, loss 0\.0\d+ of the average, 0\.\d+ of the weights",
    "vae": r"the best of 20: \{.*\}, at most 2\d\.\d\d nats a digit",
    "trainable": r"best after \d+ steps: loss (\S+) when reported, \1 with the weights that were kept",
}

NEEDS = {"gp_in_one_dimension": "plotly"}
"""Packages of an extra, without which an example is not run."""

SHORTER = {
    "character_transformer": ("UPDATES = 32, 32, 2, 50", "UPDATES = 32, 32, 2, 6"),
    "cross_validation": ("FOLDS, EPOCHS, BATCH = 5, 6, 64", "FOLDS, EPOCHS, BATCH = 5, 2, 64"),
    "digits_demo": ("trials: int = 64", "trials: int = 16"),
    "matrix_factorization": ("trials=60", "trials=24"),
    "vae": ("trials=60", "trials=20"),
    "ensemble": ("MEMBERS, STEPS, NOISE = 32, 600, 0.05", "MEMBERS, STEPS, NOISE = 32, 150, 0.05"),
}
"""What is smaller in a copy, which is run instead: whole, they train for ten seconds and more. `make demo` runs the demo as it is."""


def anew(script: Path, *, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", LINES)
def test_an_example_runs_to_its_end_and_says_what_it_should(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    script = EXAMPLES / f"{name}.py"
    if name in SHORTER:
        whole = script.read_text(encoding="utf-8")
        assert whole.count(SHORTER[name][0]) == 1
        script = tmp_path_factory.mktemp("examples") / script.name
        script.write_text(whole.replace(*SHORTER[name]), encoding="utf-8")
    ran = (anew if name == "function" else run)(script, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert any(re.fullmatch(LINES[name], line) for line in ran.stdout.splitlines()), ran.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "studies lie in runs/, and nothing else is left"


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_without_its_package_names_the_extra(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{NEEDS[name]}.py").write_text("raise ImportError('not here')")
    (tmp_path / "script.py").write_text(f"exec(open({str(EXAMPLES / f'{name}.py')!r}).read())")
    ran = run(tmp_path / "script.py", folder=tmp_path)
    assert ran.returncode == 1 and re.search(r'^ImportError: .* pip install "torchtune-hp\[plots\]"$', ran.stderr, re.MULTILINE), ran.stderr


def test_every_example_is_run() -> None:
    assert sorted(LINES) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_the_scheduler_of_the_example_passes_the_shipped_suite(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"import pytest; raise SystemExit(pytest.main(['-p', 'no:cacheprovider', {str(EXAMPLES / 'own_scheduler.py')!r}]))"
    )
    ran = run(tmp_path / "script.py", folder=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^\d\d+ passed", ran.stdout, re.MULTILINE), ran.stdout


@pytest.mark.parametrize("name", sorted(set(LINES) - {"digits_demo", "own_scheduler"}))
def test_no_example_guards_itself_against_its_worker_processes(name: str) -> None:
    assert "__main__" not in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
