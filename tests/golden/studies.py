"""Writes studies.json anew: python -m tests.golden.studies"""

import json
import tempfile
from pathlib import Path

import torchtune_hp as hp

from .test_equalities import FILE, SCHEDULERS, digest, told

found = {}
for name, make in SCHEDULERS.items():
    with tempfile.TemporaryDirectory() as folder:
        one = told(Path(folder) / "one", hp.Serial(), scheduler=make())
        eight = told(Path(folder) / "eight", hp.Serial(8), scheduler=make())
    found[name] = {"one": digest(one), "eight": digest(eight), "turns": [len(one), len(eight)]}
FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
