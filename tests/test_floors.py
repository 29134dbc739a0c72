"""Who may import whom, and what the deciding floors may not touch: the house's table, enforced.

    5  tuner  results  cli  report  observers  integrations, ...    wires everything
    4  executors  population  training  vault  journal              effects; never 2-3
    3  study (with keeping, living, stopping, supply and tried)     0, 1's space, 2's contracts
    2  searchers  schedulers                                        siblings: never each other; schedulers import 1 only where it is used
    1  space  gp                                                    tensors; gp knows no trial
    0  trial  values  parts  packing  errors  seeds  spec  objective  pareto  standard library only

Imports inside functions count. Those under `if TYPE_CHECKING:` do not: they are not there when the code runs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "torchtune_hp"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE
TABLE = {
    0: "trial values parts packing errors seeds spec objective pareto",
    1: "space gp",
    2: "searchers schedulers",
    3: "study keeping living stopping supply tried",
    4: "executors population functional metrics training vault checkpoints lock "
    "journal journal_file journal_rows journal_text journal_turns",
}   # what is not named here is on floor 5  # fmt: skip
FLOORS = {part: floor for floor, parts in TABLE.items() for part in parts.split()}
DOORS = {("training.function", "tuner")}
"""Ways up, opened only when called: `train.tune()` is `Tuner(train).fit()`."""

SEEDS_AND_RESTORES = {
    ("space.sampled", what)
    for what in ("random", "np.random.get_state", "np.random.seed", "np.random.set_state", "torch.default_generator")
}
"""A user's `sample_from` draws where it likes: it is run under the trial's seed, and the global generators are put back."""

OFF_LIMITS = ("time", "datetime", "os", "pathlib", "logging", "threading", "random", "io", "torch.cuda")
SOURCES_OF_CHANCE = {"Generator", "SeedSequence", "BitGenerator", "Philox", "PCG64", "default_rng"}     # of numpy.random; all take a seed
TORCH_DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli", "multinomial", "poisson",
    "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_",
}   # fmt: skip


class Import(NamedTuple):
    """`module`, dotted and absolute; `lazy`: inside a function."""

    module: str
    line: int
    lazy: bool


def test_the_house_keeps_its_floors() -> None:
    assert [complaint for path in sorted(ROOT.rglob("*.py")) for complaint in complaints(name_of(path), path.read_text())] == []


def complaints(name: str, source: str) -> Iterator[str]:
    """What module `name` ("searchers.grid"; "" is the package itself) does that its floor forbids."""
    tree = ast.parse(source)
    floor = floor_of(name)
    for module, line, lazy in dict.fromkeys(imports(name, tree)):
        if reason := forbidden(name, module, lazy):
            yield f"{name}:{line} imports {module}: {reason}"
    if floor <= 3:
        for line, what in uses(tree):
            if (name, what) not in SEEDS_AND_RESTORES:
                yield f"{name}:{line} uses {what}: floors 0-3 have no clock, file, device or global randomness"


def forbidden(name: str, module: str, lazy: bool) -> str | None:
    """Why `name` may not import `module`, if so."""
    floor, part = floor_of(name), name.split(".")[0]
    if floor <= 3 and (name, module) not in SEEDS_AND_RESTORES and any(f"{module}.".startswith(f"{banned}.") for banned in OFF_LIMITS):
        return "floors 0-3 have no clock, file, device or global randomness"
    if module.split(".")[0] != PACKAGE:
        outside = module.split(".")[0]
        return "floor 0 is standard library only" if floor == 0 and outside not in sys.stdlib_module_names else None
    other = module.removeprefix(PACKAGE).removeprefix(".")
    target = other.split(".")[0]
    above = floor_of(other)
    if part == target or (name, target) in DOORS and lazy:
        return None
    if target == "testing":
        return None if part == "testing" else "the shipped suites are for tests"
    if part == "testing":
        return None
    if above > floor:
        return f"floor {floor} does not import floor {above}"
    if floor in (1, 2) and above == floor:
        return "siblings never import each other"
    if part == "gp" and target == "trial":
        return "gp knows tensors, no trial"
    if part == "schedulers" and above == 1 and not lazy:
        return "a scheduler imports floor 1 only inside the class that needs it"
    if floor == 3 and above == 1 and target != "space":
        return "of floor 1, floor 3 imports the space only"
    if floor == 3 and above == 2 and other.split(".")[1:] != ["base"]:
        return "of floor 2, floor 3 imports the contracts only"
    if floor == 4 and above in (2, 3):
        return "effects never import decisions"
    return None


def imports(name: str, tree: ast.Module) -> Iterator[Import]:
    package = [PACKAGE, *name.split(".")][: 1 if not name else None]
    if name and not (ROOT.joinpath(*name.split(".")) / "__init__.py").exists():
        package = package[:-1]
    for node, lazy in running(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])]) if node.level else node.module or ""
            # `from . import study` imports a module, `from .study import Study` a name of one; the floor of both is the module's.
            yield from (Import(f"{base}.{alias.name}" if is_module(base, alias.name) else base, node.lineno, lazy) for alias in node.names)


def running(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, in order, and whether inside a function; what is only for type checkers is left out."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, lazy = waiting.pop()
        yield node, lazy
        typing_only = isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = node.orelse if typing_only else ast.iter_child_nodes(node)
        waiting += [(child, lazy) for child in inside][::-1]


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Clocks, files, devices and global randomness that need no import of their own."""
    for node, _ in running(tree):
        if isinstance(node, ast.Attribute) and (text := dotted(node)) in ("torch.cuda", "torch.default_generator"):
            yield node.lineno, text
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            drawn = [name for name in names if name in TORCH_DRAWS | {"manual_seed", "seed"}] if node.module == "torch" else []
            drawn += [name for name in names if name not in SOURCES_OF_CHANCE] if node.module == "numpy.random" else []
            yield from ((node.lineno, f"{node.module}.{name}") for name in drawn)
        elif isinstance(node, ast.Call) and draws(text := dotted(node.func), node):
            yield node.lineno, text


def draws(text: str, call: ast.Call) -> bool:
    *owner, verb = text.split(".")
    seeded = any(keyword.arg in ("generator", "seed") for keyword in call.keywords)
    if owner[-2:] in (["np", "random"], ["numpy", "random"]):
        return verb not in SOURCES_OF_CHANCE or not (call.args or call.keywords)
    if verb in TORCH_DRAWS and (owner == ["torch"] or verb.endswith("_") or verb in ("bernoulli", "multinomial")):
        return not seeded
    if verb == "SobolEngine":
        return not seeded
    return text == "open" or text in ("torch.manual_seed", "torch.seed", "torch.random.manual_seed")


def dotted(node: ast.expr) -> str:
    """`np.random.rand` as text; what is not a plain chain of names becomes "?"."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def floor_of(name: str) -> int:
    return FLOORS.get(name.split(".")[0], 5)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def is_module(base: str, name: str) -> bool:
    if base.split(".")[0] != PACKAGE:
        return (base, name) == ("torch", "cuda") or f"{base}.{name}" in OFF_LIMITS
    place = ROOT.joinpath(*base.split(".")[1:], name)
    return place.is_dir() or place.with_suffix(".py").exists()


# The checker itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, source, complaint",
    [
        ("trial", "import torch", "standard library only"),
        ("spec", "def f():\n    import numpy as np", "spec:2 imports numpy: floor 0 is standard library only"),
        ("trial", "from .space import Space", "floor 0 does not import floor 1"),
        ("space", "from .. import searchers", "floor 1 does not import floor 2"),
        ("space.domains", "from ..gp import kernel", "siblings never import each other"),
        ("gp.kernel", "from ..trial import Dim", "gp knows tensors, no trial"),
        ("searchers.random", "from ..schedulers.base import Scheduler", "siblings never import each other"),
        ("schedulers.base", "from ..searchers import Base", "siblings never import each other"),
        ("schedulers.asha", "from ..gp import kernel", "only inside the class that needs it"),
        ("searchers.random", "def f():\n    from ..study import Study", "floor 2 does not import floor 3"),
        ("study", "from .gp import kernel", "imports the space only"),
        ("study", "from .searchers import RandomSearch", "imports the contracts only"),
        ("study", "from .searchers.grid import GridSearch", "imports the contracts only"),
        ("study", "from torchtune_hp.schedulers import ASHA", "imports the contracts only"),
        ("study", "import torchtune_hp.journal", "floor 3 does not import floor 4"),
        ("study", "from . import Tuner", "floor 3 does not import floor 5"),
        ("executors.base", "from ..study import Study", "effects never import decisions"),
        ("vault", "from .schedulers.base import Scheduler", "effects never import decisions"),
        ("journal", "from .tuner import Tuner", "floor 4 does not import floor 5"),
        ("training.function", "from ..tuner import Tuner", "floor 4 does not import floor 5"),
        ("tuner", "from .testing import searcher_suite", "the shipped suites are for tests"),
        ("study", "import time", "no clock"),
        ("study", "from datetime import datetime", "no clock"),
        ("objective", "import os.path", "no clock"),
        ("space", "from pathlib import Path", "no clock"),
        ("study", "import logging, threading", "imports threading"),
        ("gp.kernel", "from torch import cuda", "imports torch.cuda"),
        ("gp.kernel", "import torch.cuda.amp", "imports torch.cuda.amp"),
        ("searchers.base", "import random", "no clock"),
        ("space.domains", "import random", "imports random"),
        ("space.sampled", "import random\nx = np.random.rand(3)", "space.sampled:2 uses np.random.rand"),
        ("gp.kernel", "x = torch.cuda.is_available()", "uses torch.cuda"),
        ("study", "def f():\n    with open('x') as g:\n        pass", "study:2 uses open"),
        ("searchers.random", "x = np.random.rand(3)", "uses np.random.rand"),
        ("searchers.random", "x = numpy.random.default_rng()", "uses numpy.random.default_rng"),
        ("searchers.random", "x = torch.rand(3)", "uses torch.rand"),
        ("schedulers.pbt", "x = torch.randperm(3, device='cpu')", "uses torch.randperm"),
        ("gp.kernel", "x.uniform_(0, 1)", "uses x.uniform_"),
        ("gp.kernel", "weights.multinomial(3)", "uses weights.multinomial"),
        ("gp.kernel", "torch.manual_seed(0)", "uses torch.manual_seed"),
        ("gp.kernel", "torch.default_generator.manual_seed(0)", "uses torch.default_generator"),
        ("gp.kernel", "from torch import Tensor, randn", "uses torch.randn"),
        ("searchers.random", "from numpy.random import rand", "uses numpy.random.rand"),
        ("searchers.sobol", "SobolEngine(3, scramble=True)", "uses SobolEngine"),
        ("trial", "if TYPE_CHECKING:\n    import time\nelse:\n    import torch", "trial:4 imports torch"),
    ],
)   # fmt: skip
def test_a_floor_that_is_broken_on_purpose_is_named(name: str, source: str, complaint: str) -> None:
    found = list(complaints(name, source))
    assert found and complaint in found[-1] and found[-1].startswith(f"{name}:")


@pytest.mark.parametrize(
    "name, source",
    [
        ("trial", "import math\nfrom .errors import SpaceError"),
        ("trial", "if TYPE_CHECKING:\n    from torch import Tensor\n    from .tuner import Tuner"),
        ("trial", "if typing.TYPE_CHECKING:\n    import torch"),
        ("space.domains", "import torch\nfrom ..trial import Dim\nfrom . import columns\nfrom ..space.columns import Column"),
        ("gp.regression", "from ..errors import SpaceError\nfrom .kernel import matern"),
        ("searchers.gp", "from ..gp import regression\nfrom ..space import Space\nimport numpy as np"),
        ("schedulers.pb2", "class PB2:\n    def decide(self):\n        from ..gp import regression"),
        ("study", "from .searchers.base import Searcher\nfrom .schedulers.base import Scheduler\nfrom .space import Space"),
        ("executors.fused", "import time, threading\nfrom ..population import engine\nfrom ..trial import Trial\nopen('x')\ntorch.rand(3)"),
        ("training.function", "def tune(self):\n    from ..tuner import Tuner"),
        ("tuner", "from .study import Study\nfrom .searchers import GPSearch\nimport os"),
        ("testing.searcher_suite", "from ..searchers import RandomSearch\nimport random\nfrom .toy_models import Toy"),
        ("searchers.random", "np.random.Philox(key=1)\nnp.random.default_rng(3)\nfrom numpy.random import Philox"),
        ("searchers.sobol", "torch.rand(3, generator=g)\nSobolEngine(3, seed=1)\nx.normal_(generator=g)\nfrom torch import Tensor"),
        ("", "from .tuner import Tuner"),
    ],
)   # fmt: skip
def test_what_the_floors_allow_is_not_named(name: str, source: str) -> None:
    assert list(complaints(name, source)) == []


def test_a_file_of_the_package_is_found_by_its_module_name() -> None:
    assert name_of(ROOT / "__init__.py") == "" and floor_of("") == 5
    assert name_of(ROOT / "searchers" / "__init__.py") == "searchers"
    assert name_of(ROOT / "searchers" / "grid.py") == "searchers.grid"
    assert (floor_of("trial"), floor_of("gp.kernel"), floor_of("study"), floor_of("journal"), floor_of("cli")) == (0, 1, 3, 4, 5)
