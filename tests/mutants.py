"""Mutation testing of the floors that decide: would the tests notice if a line were wrong? `make mutants`; not a test itself.

mutmut changes one thing at a time (a comparison, a constant, an argument, ...) in the modules that setup.cfg names under
[mutmut], which are floors 0, 2 and 3 (test_floors.py has the table), and runs the tests that call the changed function. A mutant
is killed if one of them fails, or if it hangs or crashes. What survives is a line whose behavior no test pins down: `mutmut results`
names the mutants, `mutmut show NAME` the change. The tensors of floor 1 are held to references and other programs instead.

Results are kept under mutants/, so that a run that was interrupted goes on, and only what changed is tried again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

GOAL = 85
"""Per cent of the mutants that must be killed, over all modules."""

SURVIVED, UNREACHED, UNTRIED, INTERRUPTED, SKIPPED = 0, {5, 33}, None, 2, 34
"""mutmut's exit codes. All others are kills: a failing test (1, 3), a time limit (24, 36, 152, 255, -24), a signal."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="mutants tried at once (default 2)")
    parser.add_argument("patterns", nargs="*", help="which mutants, as 'torchtune_hp.searchers.*' (default: all)")
    arguments = parser.parse_args()
    run = subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", str(arguments.workers), *arguments.patterns])
    if run.returncode:
        print(f"mutmut ended with {run.returncode}: the tests must pass before anything is changed.", file=sys.stderr)
        return run.returncode
    return told(Path("mutants"))


def told(folder: Path) -> int:
    """Prints what became of the mutants of each module; 1 if fewer than GOAL per cent were killed, or none was tried."""
    total: Counter[str] = Counter()
    print(f"{'killed':>8} {'survived':>9} {'no test':>8}   per cent")
    for path in sorted(folder.rglob("*.meta")):
        counts = Counter(fate(code) for code in json.loads(path.read_text())["exit_code_by_key"].values())
        total += counts
        if tried(counts):
            print(line(counts), path.relative_to(folder).with_suffix(""))
    print(line(total), "in all" + (f", {total['untried']} not tried" if total["untried"] else ""))
    return int(not tried(total) or 100 * total["killed"] < GOAL * tried(total))


def fate(code: int | None) -> str:
    if code in (UNTRIED, INTERRUPTED, SKIPPED):
        return "untried"
    return "survived" if code == SURVIVED else "no test" if code in UNREACHED else "killed"


def tried(counts: Counter[str]) -> int:
    return counts["killed"] + counts["survived"] + counts["no test"]


def line(counts: Counter[str]) -> str:
    share = 100 * counts["killed"] / max(1, tried(counts))
    return f"{counts['killed']:8} {counts['survived']:9} {counts['no test']:8} {share:10.1f}  "


if __name__ == "__main__":
    sys.exit(main())
