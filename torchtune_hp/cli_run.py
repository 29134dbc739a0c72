"""The commands that train: `run` and `resume`. They alone import a user's file."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .cli_output import NoResult, UsageError
from .errors import ConfigurationError, SpaceError, TorchtuneError
from .journal import Journal
from .observers.wording import inert

if TYPE_CHECKING:
    from .results import Results
    from .tuner import Tuner

_REBUILT = ("searcher", "scheduler", "stop", "points", "executor")


def run(arguments: argparse.Namespace) -> int:
    from .tuner import Tuner

    changes = _changes(arguments)
    found = load(arguments.target)
    if isinstance(found, Tuner):
        if changes and found._folder is not None:
            raise UsageError(f"{arguments.target} goes on with a study; what is typed here is for a new one ({', '.join(changes)}).")
        return _fitted(Tuner(**{**found._given, **changes}) if changes else found)
    return _fitted(Tuner(found, **changes))


def resume(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.folder)
    with Journal.open(folder) as journal:
        header = journal.header
    target = arguments.target or _recorded(folder, header)
    from .tuner import Tuner, defaults_of  # torch: what can be refused is refused before

    changes: dict[str, Any] = {"time_budget": _amount(arguments.time_budget, float), "target": arguments.goal}
    changes = {name: value for name, value in changes.items() if value is not None}
    if arguments.quiet:
        changes["verbose"] = 0
    found = None
    if target is not None:
        if arguments.target is None:
            print(f"loading {inert(target)}", file=sys.stderr)
        found = load(target)
        own = found._given if isinstance(found, Tuner) else defaults_of(found)
        changes |= _not_rebuilt(header, own)
        found = own["trainable"] if isinstance(found, Tuner) else found
    return _fitted(Tuner.resume(folder, found, trials=_amount(arguments.trials, int), **changes))


def load(target: str) -> Any:
    """What FILE:NAME names. The file is imported under its module name, with the folder its imports start from on sys.path."""
    file, _, name = target.rpartition(":")
    if not file or not name:
        raise UsageError(f"FILE:NAME is needed, such as train.py:train, but got {target!r}.")
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"{file}: there is no such file.")
    if path.suffix != ".py" or "." in path.stem:
        raise UsageError(f"{file}: a Python file is needed, whose name can be imported: letters, digits, '_' and '-', then .py.")
    found: Any = _imported(path)
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(key for key, value in vars(found).items() if not key.startswith("_") and callable(value))
            raise UsageError(f"{file} has no {name!r}. It has: {known or 'nothing that could be tuned'}.")
        found = getattr(found, part)
    return found


def _imported(path: Path) -> Any:
    """The module of a file. A script that starts its study at top level is read down to there."""
    root, name = path.parent, path.stem
    while (root / "__init__.py").exists() and root != root.parent:      # a file of a package is imported as one
        root, name = root.parent, f"{root.name}.{name}"
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        if name in sys.modules:
            made = sys.modules[name]
        else:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None or spec.origin is None or Path(spec.origin).resolve() != path:
                raise UsageError(f"{path} has the name of another module, {name}: give the file another name.")
            made = importlib.util.module_from_spec(spec)
            _read(made, spec.loader)
    except (Exception, SystemExit) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error} (--traceback shows where)") from error
    if Path(getattr(made, "__file__", None) or "").resolve() != path:
        raise UsageError(f"{path} has the name of another module, {name}: give the file another name.")
    return made


def _read(module: ModuleType, loader: Any) -> None:
    import cloudpickle

    from .scripts import StudyMet, reading

    sys.modules[module.__name__] = module
    try:
        with reading():
            loader.exec_module(module)
    except StudyMet:
        cloudpickle.register_pickle_by_value(module)        # workers must not import it: they would come to the same fit()
    except BaseException:
        del sys.modules[module.__name__]
        raise


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a Tuner that were typed."""
    typed = {
        "trials": arguments.trials, "time_budget": arguments.time_budget, "target": arguments.goal, "seed": arguments.seed,
        "seeds": arguments.seeds, "folds": arguments.folds,
        "name": arguments.name, "storage": arguments.storage, "metric": _one_or_all(arguments.metric), "mode": _one_or_all(arguments.mode),
        "space": _space(arguments.space), "searcher": _searcher(arguments.searcher),
        "scheduler": _scheduler(arguments.scheduler, arguments.max_t),
        "executor": _executor(arguments.executor, arguments.workers), "resume": "auto" if arguments.resume else None,
        "warm_start": arguments.warm_start,
        "verbose": 0 if arguments.quiet else None,
    }  # fmt: skip
    return {name: value for name, value in typed.items() if value is not None}


def _one_or_all(names: list[str] | None) -> Any:
    return names[0] if names is not None and len(names) == 1 else names


def _space(file: str | None) -> Any:
    if file is None:
        return None
    from .space import Space

    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--space: {file} cannot be read: {error}") from None
    return Space.from_yaml(text)


def _searcher(name: str | None) -> Any:
    if name is None:
        return None
    from . import searchers

    classes: dict[str, Any] = {
        "random": searchers.RandomSearch, "grid": searchers.GridSearch, "sobol": searchers.SobolSearch, "gp": searchers.GPSearch,
    }  # fmt: skip
    return classes[name]()


def _scheduler(name: str | None, max_t: int | None) -> Any:
    if name is None and max_t is None:
        return None
    from . import schedulers

    classes = {
        "asha": schedulers.ASHA, "hyperband": schedulers.Hyperband, "halving": schedulers.SuccessiveHalving,
        "median": schedulers.MedianStopping, "full": schedulers.FullRuns,
    }  # fmt: skip
    made: Any = classes[name or "full"]
    return made() if max_t is None else made(max_t=max_t)


def _executor(name: str | None, workers: int | None) -> Any:
    if name == "serial":
        if workers is not None:
            raise UsageError("--workers: --executor serial trains one trial at a time in this process; leave one of them out.")
        from .executors.serial import Serial

        return Serial()
    if name is None and workers is None:
        return None
    from .executors.processes import Processes

    return Processes() if workers is None else Processes(workers=workers)


def _amount(text: str | None, number: type[int] | type[float]) -> Any:
    """50 is a number; +50 stays a text: so many more."""
    if text is None or text.startswith("+"):
        return text
    try:
        return number(text)
    except ValueError:
        raise UsageError(f"a number, or + and a number for more, is needed, but got {text!r}.") from None


def _recorded(folder: Path, header: Mapping[str, Any]) -> str | None:
    """FILE:NAME as the study's header has it; None for a study that trains nothing."""
    trainable = header.get("trainable") or {}
    file, name = trainable.get("file"), trainable.get("qualname", "")
    if "qualname" not in trainable:
        return None
    if file and name and "<" not in name and Path(file).is_file():
        return f"{file}:{name}"
    why = f"{file} is not there" if file and not Path(file).is_file() else "it was not defined at the top of a file"
    raise ConfigurationError(
        f"the study trains {trainable.get('name', '?')}, but {why}. Say where it is now: "
        f"torchtune-hp resume {folder} {Path(file).name if file else 'FILE.py'}:{name if name and '<' not in name else 'NAME'}"
    )


def _not_rebuilt(header: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Parts that the journal cannot give back (they hold lambdas, say) and the file has."""
    from .resuming import brought_back

    missing: dict[str, Any] = {}
    for name in ("space", *_REBUILT):
        if own.get(name) is None or name not in header:
            continue
        try:
            brought_back(name, header[name])
        except (ConfigurationError, SpaceError):
            missing[name] = own[name]
    return missing


def _fitted(tuner: Tuner) -> int:
    here = Path.cwd()
    with tuner.fit() as results:
        if not _succeeded(results):
            raise NoResult(_why_empty(results))
        folder = results.journal.folder
        if not sys.stdout.isatty() and folder is not None:
            # For scripts: torchtune-hp best "$(torchtune-hp run train.py:train)"
            print(folder.relative_to(here) if folder.is_relative_to(here) else folder)
    return 0


def _succeeded(results: Results) -> bool:
    try:
        return bool(results.pareto if len(results.objective.metrics) > 1 else results.best)
    except TorchtuneError:
        return False


def _why_empty(results: Results) -> str:
    errors = results.errors
    first = f" The first failure, of trial {errors[0].trial}: {errors[0].line}" if errors else ""
    return f"no trial succeeded ({len(results)} trials, {len(errors)} failed).{first}"
