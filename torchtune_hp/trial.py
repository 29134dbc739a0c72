"""The vocabulary: what a trial is, what is decided about it, and what is heard of it.

Read this first. Two halves of the library meet only in these words. One half decides (`study.py` with a searcher and a
scheduler) and never sees a clock, a file or a device. The other acts (executors, journal) and never decides. Between them
travel plain frozen values:

    scheduler --decisions--> study --commands--> executor --events--> study --reports--> scheduler, searcher

Steps count units of budget (epochs, say) from 0; a trial that reached the step it was sent to is *at rest*, and another
`Train` wakes it. There is no pause, no resume and no continue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .packing import packed
from .values import value

if TYPE_CHECKING:
    from torch import Tensor

Scalar = float | int | bool | str | None
Config = Mapping[str, Any]
DimKind = Literal["float", "int", "category", "ordinal"]
FailKind = Literal["error", "diverged", "oom", "timeout", "bad_metric", "lost"]

ENDLESS = 2**53
"""The step a trial is sent to when it is to run to its own end in one grant: larger than any trial gets."""


# What there is to search ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dim:
    """One hyperparameter, as one coordinate of the unit cube.

    `levels` is the number of distinct values (None: a continuum). Each covers an interval and is canonical at its middle;
    level k of n covers [k/n, (k+1)/n), except on a log scale and where rounding makes unequal cells (`Setting.levels`).
    `parent` is (name of a categorical Dim, index of its category): the hyperparameter exists only in that branch, and rests
    at 0.5 elsewhere. `grid`: written as `grid_search`, to be crossed exhaustively.
    """

    name: str
    kind: DimKind
    levels: int | None = None
    log: bool = False
    parent: tuple[str, int] | None = None
    grid: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What an earlier study found, in the coordinates of this one: n of its trials, each as of its last finite look.

    `shared`: the dimensions (places in `Setting.dims`) that its trials vary too; `x`, n rows of d, rests at 0.5 in the others.
    `budget`: the share of its full budget that each trial had spent, in (0, 1]. `values`: what each trial is worth,
    a report of its own, one number for each objective, smaller is better, finite.
    """

    name: str
    shared: tuple[int, ...]
    x: tuple[tuple[float, ...], ...]
    budget: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What searchers and schedulers are told once, at the beginning.

    `feasible` maps points (n, d) float64 to a mask (n,) bool. `rows`: None, or (m, d) float64: the only points there are.
    `levels(k, most)`: the canonical coordinates of dimension k's levels, (m,) float64 ascending, all of them or about `most`
    of them; None: all cells are equal. `max_t`: the largest budget of a trial in steps, None if trials end by themselves.
    `capacity`: how many trials run at once, logically. `saves`: resting trials can be saved and woken elsewhere. `sources`: earlier
    studies to learn from.
    """

    dims: tuple[Dim, ...]
    feasible: Callable[[Tensor], Tensor]
    objectives: int = 1
    max_t: int | None = None
    capacity: int = 1
    seed: int = 0
    saves: bool = True
    rows: Tensor | None = None
    levels: Callable[[int, int], Tensor] | None = None
    sources: tuple[Source, ...] = ()


@packed
@value
class Trial:
    """One configuration to be trained. `x` is the truth; `config` is what the user's code reads (not compared).

    Both are packed (see `packing`): a config of floats alone is read as a new dict each time.
    """

    id: int
    x: tuple[float, ...]
    config: Config = field(compare=False)
    seed: int
    tag: int = 0
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the study in this turn. `trials`, `seconds`, `target`: None means no bound.

    `target` is a value of the first metric, in the user's own direction: the study ends once it is reached.
    """

    capacity: int
    trials: int | None = None
    seconds: float | None = None
    target: float | None = None


# What a scheduler decides: grants of budget ------------------------------------------------------------------------------


@value
class New:
    """A fresh trial, trained to step `until` (None: to its own end). The study asks the searcher where."""

    until: int | None
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Fork:
    """A new trial at `x` that starts from a copy of `parent` as of its last look and trains `further` steps on."""

    parent: int
    x: tuple[float, ...]
    further: int
    tag: int = 0


@value
class Train:
    """Train this trial to step `until`: start, continue, resume and promote are all this one word."""

    trial: int
    until: int | None


@value
class Drop:
    """This trial's state may be forgotten; it is never named again."""

    trial: int


Decision = New | Fork | Train | Drop


# What an executor hears --------------------------------------------------------------------------------------------------


@value
class Launch:
    """Begin this trial and train it to step `until`."""

    trial: Trial
    until: int


@value
class Keep:
    """Make this trial's state as of its last look durable; then what was kept of `instead_of` may be forgotten."""

    trial: int
    instead_of: tuple[int, ...] = ()


Command = Launch | Train | Drop | Keep


# What an executor says ---------------------------------------------------------------------------------------------------


@value
class Reached:
    """The trial stands at `step` with these metrics. `time`: seconds of the study, monotonic, downtime left out.

    `done`: it ended by itself. A trial that ends without a further report says so with the step and metrics of its last one.
    """

    trial: int
    step: int
    metrics: Mapping[str, Scalar]
    time: float
    done: bool = False


@value
class Failed:
    """The trial failed while working on `step`. `error` is what a person needs to see, a traceback included."""

    trial: int
    step: int
    kind: FailKind
    error: str
    time: float


@value
class Note:
    """Something worth knowing: a fallback, a choice, a retry. Journaled and shown; no searcher or scheduler hears it."""

    kind: str
    text: str
    trial: int | None = None
    time: float = 0.0


Event = Reached | Failed | Note


# What schedulers and searchers hear --------------------------------------------------------------------------------------


@value
class Report:
    """A look at a trial. `values`: smaller is better, one per objective; a NaN or a failure is +inf already.

    A scheduler hears of a look that used up its grant, or at which the trial ended: then `step` is the step it was granted.
    A searcher hears every look, with the step it was taken at.
    """

    trial: int
    step: int
    values: tuple[float, ...]
    tag: int
    x: tuple[float, ...]
    done: bool = False
    failed: bool = False


# Where a study stands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a resumed study stands, for its executor. The default is a study that has not begun.

    `tick`: virtual time now. `since`: for each running trial, the tick at which its outstanding command was submitted.
    `live`: every trial that may be named again, with the step of its last look. `seconds`: study time spent so far.
    """

    tick: int = 0
    since: Mapping[int, int] = field(default_factory=dict)
    live: tuple[tuple[Trial, int], ...] = ()
    seconds: float = 0.0
