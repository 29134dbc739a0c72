"""The public names: sorted, exact, importable, documented, and cheap to import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import torchtune_hp as hp

OPTIONAL = ("ray", "optuna", "plotly", "rich", "cmaes", "tensorboard", "pandas", "lightning")


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that are loaded once a fresh interpreter has run `statement`."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_all_is_sorted_and_names_each_once() -> None:
    assert list(hp.__all__) == sorted(set(hp.__all__))


@pytest.mark.parametrize("name", hp.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(hp, name) is not None
    assert getattr(hp, name) is getattr(hp, name)


def test_dir_shows_every_public_name() -> None:
    assert set(hp.__all__) <= set(dir(hp))


def test_nothing_else_looks_public() -> None:
    # Submodules stand in the package's namespace once they are imported, as they do everywhere.
    package = Path(hp.__file__).parent
    modules = {path.stem for path in package.iterdir()}
    for name in hp.__all__:
        getattr(hp, name)
    tree = ast.parse(Path(hp.__file__).read_text())
    tools = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    public = {name for name in vars(hp) if not name.startswith("_")}
    assert public - modules - tools - set(hp.__all__) == set()


def test_a_star_import_gives_exactly_the_public_names() -> None:
    scope: dict[str, object] = {}
    exec("from torchtune_hp import *", scope)
    assert set(scope) - {"__builtins__"} == set(hp.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hp.no_such_name


@pytest.mark.parametrize("name", [name for name in hp.__all__ if callable(getattr(hp, name))])
def test_every_public_callable_has_a_docstring_of_its_own(name: str) -> None:
    thing = getattr(hp, name)
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    assert text and text.strip(), f"hp.{name} has no docstring"
    # A dataclass without one is given its signature.
    assert not text.startswith(f"{getattr(thing, '__name__', name)}("), f"hp.{name} has only the docstring that dataclass wrote"


def test_importing_the_package_loads_no_optional_package() -> None:
    assert loaded_after("import torchtune_hp").isdisjoint(OPTIONAL)


def test_every_public_name_can_be_loaded_without_an_optional_package() -> None:
    blocked = f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))"
    loaded_after(f"{blocked}\nimport torchtune_hp\nfor name in torchtune_hp.__all__: getattr(torchtune_hp, name)")


@pytest.mark.parametrize("module", ["results", "journal", "cli"])
def test_reading_a_study_needs_no_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import torchtune_hp.{module}")
