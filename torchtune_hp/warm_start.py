"""What earlier studies found, read from their journals once and put into the coordinates of a new one.

Laws:
1. It is read when the new study is made, and kept in its journal's header. The earlier study may go on, change or be deleted: the new
   one resumes to the same result.
2. A hyperparameter is shared if it has one name in both, and several values in the earlier study that are legal here. The others are
   left out, and so are trials with a value that is not legal here, or without one of a shared hyperparameter that they would have
   here; where half of the trials or more would be left out, what most of them lack is not shared, if anything else is. The log says
   which and how many.
3. A trial counts as of its last finite look, and is worth the best it had reported (several objectives: `gp_history`, law 2): an
   unfinished study as far as it came, a failed trial as long as it was finite.
4. Of one study PER_SOURCE trials are taken at most, of all together MOST: the best, the newest, and others spread over the study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .configs import recorded_space, whole_config
from .errors import ConfigurationError, SpaceError
from .journal import Journal
from .journal_text import from_json, to_json
from .objective import Objective
from .result import flat
from .searchers.gp_history import Row, chosen, worth
from .space import Space
from .space.shared import ABSENT, OUTSIDE
from .trial import Config, Source

MOST, PER_SOURCE, SOURCES = 512, 128, 32
_PLACED = 4096      # trials of one study whose configs are read at all


class _Look(NamedTuple):
    """The last finite look at a trial, `t` being the share of the budget it had spent; `values`: what it was worth there."""

    trial: int
    config: Config
    t: float
    values: tuple[float, ...]


def read(paths: Any, space: Space, objective: Objective, *, fidelity: bool) -> list[tuple[Source, str]]:
    """Each study folder as a Source, with what the log should say of it.

    `fidelity`: the new study's trials have more than one step; if not, of each earlier study only those that went furthest count.
    Raises ConfigurationError for a study that says nothing of the new one, and what `Journal.open` raises.
    """
    check_paths(paths)
    if len(paths) > SOURCES:
        raise ConfigurationError(f"warm_start: at most {SOURCES} studies can be learned from, but got {len(paths)}. Name those most alike.")
    return [_source(str(path), space, objective, fidelity, min(PER_SOURCE, MOST // len(paths))) for path in paths]


def check_paths(paths: Any) -> None:
    """Raises ConfigurationError for what is no list of paths."""
    if isinstance(paths, (str, Path)) or not isinstance(paths, Sequence) or not all(isinstance(path, (str, Path)) for path in paths):
        raise ConfigurationError(f"warm_start: a list of study folders is needed, such as ['runs/digits-1'], but got {paths!r}.")


def described(sources: Sequence[Source]) -> list[Any]:
    """JSON for a journal's header."""
    as_json: list[Any] = from_json(to_json([asdict(source) for source in sources]))
    return as_json


def rebuilt(recorded: Sequence[Mapping[str, Any]]) -> tuple[Source, ...]:
    return tuple(
        Source(
            one["name"], tuple(one["shared"]), tuple(map(tuple, one["x"])), tuple(one["budget"]), tuple(map(tuple, one["values"]))
        )
        for one in recorded
    )  # fmt: skip


def _source(path: str, space: Space, objective: Objective, fidelity: bool, most: int) -> tuple[Source, str]:
    with Journal.open(path) as journal:
        _check_objective(path, journal.objective, objective)
        total = journal.trials()
        looks = _looks(journal, objective)
    if not looks:
        raise ConfigurationError(
            f"warm_start: a study with a finite report of {' and '.join(objective.needed)} is needed, but none of the {total} trials "
            f"of {path} has one. Leave that study out, or ask for no metric that it did not report."
        )
    furthest = max(look.t for look in looks)
    further = [look for look in looks if fidelity or look.t == furthest]
    x = space.shared([look.config for look in further])
    names = [dim.name for dim in space.dims]
    theirs = list(dict.fromkeys(name.removeprefix("config.") for look in further for name in flat(look.config)))
    shared, inside = _shared(path, space, x, names, theirs)
    while 2 * (missing := _missing(space, x, shared) & inside[:, None]).any(1).sum() >= inside.sum() and len(shared) > 1:
        x[:, missing.sum(0).argmax()] = ABSENT      # to share it would cost most trials: the study says nothing of it instead
        shared, inside = _shared(path, space, x, names, theirs)
    if missing.any():
        x[missing.any(1)] = OUTSIDE
        shared, inside = _shared(path, space, x, names, theirs)     # fewer trials may vary less
    x[:, [k for k in range(len(names)) if k not in shared]] = 0.5
    x[x < 0] = 0.5
    rows = [Row(tuple(point), k, True, further[k].values) for k, point in enumerate(x.tolist()) if inside[k]]
    few = chosen(rows, most)
    x_t_values = [(row.x, further[row.step].t, row.values) for row in few]
    known = [names[k] for k in shared]
    unknown = [name for name in names if name not in known]
    unused = [name for name in theirs if name not in known and name.removesuffix(".name") not in known]
    said = [f"{path}: {len(few)} of its {total} trials are learned from, by {', '.join(known)}"]
    said += [f"it says nothing of {', '.join(unknown)}"] if unknown else []
    said += [f"its {', '.join(unused)} are not used"] if unused else []
    for count, why in (
        (total - len(looks), "without a finite report"),
        (len(looks) - len(further), "that were not trained as far as others, for trials have one step here"),
        (len(further) - len(rows), "with values that are not legal here, or without one that is needed here"),
        (len(rows) - len(few), f"beyond the {most} that are taken of one study"),
    ):
        said += [f"left out are {count} {why}"] if count else []
    return Source(path, tuple(shared), *zip(*x_t_values)), "; ".join(said)


def _shared(path: str, space: Space, x: Tensor, names: Sequence[str], theirs: Sequence[str]) -> tuple[list[int], Tensor]:
    """Which columns of x (n, d) are shared, and which of its trials are legal here, (n,) bool."""
    inside = ~(x == OUTSIDE).any(1)
    if not inside.any():
        odd = [name for name, column in zip(names, x.T) if (column == OUTSIDE).any()]
        raise ConfigurationError(
            f"warm_start: trials that are legal in this space are needed, but no trial of {path} is: see its values of {', '.join(odd)}. "
            "Widen those domains, or leave that study out."
        )
    count = [len(set(column[column != ABSENT].tolist())) for column in x[inside].T]
    parents = {dim.parent[0] for dim in space.dims if dim.parent is not None}
    shared: list[int] = []
    for k, dim in enumerate(space.dims):        # parents come before their children
        if (count[k] > 1 or (count[k] and dim.name in parents)) and (dim.parent is None or names.index(dim.parent[0]) in shared):
            shared.append(k)
    if not any(count[k] > 1 for k in shared):
        raise ConfigurationError(
            f"warm_start: a study that varied a hyperparameter of this one is needed, but {path} has {', '.join(theirs)}, and this one has "
            f"{', '.join(names)}. Give what is meant alike the same name, or leave that study out."
        )
    return shared, inside


def _missing(space: Space, x: Tensor, shared: Sequence[int]) -> Tensor:
    """Which trials have no value of which `shared` hyperparameter, (n, d) bool, though they are in its branch or it is in none.

    Any value that stood for it would be made up.
    """
    missing, exists = torch.zeros_like(x, dtype=torch.bool), {}
    place = {dim.name: k for k, dim in enumerate(space.dims)}
    for k, dim in enumerate(space.dims):        # parents come before their children
        exists[dim.name] = torch.ones_like(missing[:, k])
        if dim.parent is not None:
            parent, level = dim.parent
            levels = space.dims[place[parent]].levels or 1
            exists[dim.name] = exists[parent] & ((x[:, place[parent]] * levels).floor() == level)
        if k in shared:
            missing[:, k] = exists[dim.name] & (x[:, k] == ABSENT)
    return missing


def _check_objective(path: str, theirs: Objective, ours: Objective) -> None:
    there, here = dict(zip(theirs.metrics, theirs.modes)), dict(zip(ours.metrics, ours.modes))
    if any(there.get(metric) != mode for metric, mode in here.items()):
        was, now = (" and ".join(f"{metric} ({mode})" for metric, mode in one.items()) for one in (there, here))
        raise ConfigurationError(
            f"warm_start: the same metric and mode are needed, but {path} was after {was}, and this study is after {now}. "
            "Leave that study out, or optimize what it did."
        )


def _looks(journal: Journal, objective: Objective) -> list[_Look]:
    """In order of trials. Of very many the best and newest, as `chosen` says."""
    last: dict[int, Row] = {}
    furthest, needed = 1, set(objective.needed)
    for trial, step, text, done in journal.rows("SELECT trial, step, metrics, done FROM report ORDER BY id"):
        metrics = from_json(text)
        values = objective.values(metrics)
        furthest = max(furthest, step)
        if metrics.keys() >= needed and all(map(math.isfinite, values)):    # without a constraint's metric it would be a violator
            before = last[trial].values if trial in last else None
            last[trial] = Row((float(trial),), step, bool(done), worth(values, before))
    horizon = max(journal.header.get("max_t") or 1, furthest)
    try:
        space = recorded_space(journal.header)
    except (SpaceError, KeyError):      # it holds functions, which are not called: configs are what JSON holds of them
        space = None
    looks = []
    for row in chosen([last[trial] for trial in sorted(last)], _PLACED):
        trial = journal.trial(int(row.x[0]))
        config = trial.config if space is None else whole_config(trial, space)
        looks.append(_Look(trial.id, config, 1.0 if row.ended else max(row.step, 1) / horizon, row.values))
    return looks
