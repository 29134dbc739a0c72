"""Results: what came of a study, read from its journal, while it runs and ever after.

Nothing here is taken from live objects, so a study that was killed, copied elsewhere or finished a year ago answers the
same. The best report is known at every turn: a million trials take no longer than ten.

"Best" is what the study was after: the first metric in its mode. A report that is not finite or violates an outcome
constraint is never the best; of equals the earliest is, and within one turn that of the smaller trial id.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

from .configs import whole_trial
from .errors import CheckpointError, ConfigurationError, SeveralObjectivesError, TorchtuneError
from .growth import Growth, growth
from .journal import Journal
from .journal_text import from_json, text_of
from .objective import VIOLATED, Mode, Objective
from .population.census import STACKS
from .result import Chosen, Point, Result as Result, TrialError as TrialError, front, line_of
from .tables import Record, curves, frame, metrics_of, record
from .trial import Note, Trial

if TYPE_CHECKING:
    from .training.runner import Place, Recipe
    from .vault import Vault

_INFINITE = float("inf")
_RESULT = """SELECT t.id, config_text(t.x, t.config, t.names), t.state, t.kind, t.step, r.step, r.metrics, r.time, r.done, t.time,
    (SELECT error FROM failure WHERE trial = t.id), t.last FROM trials t
    LEFT JOIN report r ON r.id = {report}"""
# What a trial is shown with: its best report; of several objectives the report whose weights are kept, else the last one.
_RANKED = "SELECT value FROM trial WHERE value < ? ORDER BY value LIMIT ?"
_TOP = """SELECT t.id, t.best FROM trial t JOIN report r ON r.id = t.best WHERE t.value <= ? ORDER BY t.value, r.turn, t.id LIMIT ?"""
_KEPT = "(SELECT c.step FROM checkpoint c WHERE c.trial = report.trial AND c.purpose = 'keep' ORDER BY c.id DESC LIMIT 1)"
_SHOWN = f"(SELECT id FROM report WHERE trial = t.id ORDER BY step = {_KEPT} DESC, id DESC LIMIT 1)"

class Results:
    """`Results.open("runs/digits")`, or what `fit` returns. A sequence of `Result`, one for each trial, by trial id; a slice is a list."""

    def __init__(self, journal: Journal, recipe: Recipe | None = None, vault: Vault | None = None, *, space: Any = None) -> None:
        self.journal = journal
        self.objective: Objective = journal.objective
        self._recipe = recipe
        self._vault = vault
        self._space = space
        self._trainable: Any = None
        self._single = len(self.objective.metrics) == 1

    @classmethod
    def open(cls, path: Path | str, *, trainable: Any = None, space: Any = None) -> Results:
        """The study in a folder. `trainable` is needed for `load` and `test` only, `space` where it holds lambdas."""
        results = cls(Journal.open(path), space=space)
        results._trainable = trainable
        return results

    # The best -------------------------------------------------------------------------------------------------------------

    @property
    def best(self) -> Result:
        """The best report, with its trial.

        SeveralObjectivesError where there is no single best; TorchtuneError if no report is finite yet.
        """
        return next(iter(self.top(1)), None) or self._nothing(self.objective.metrics[0])

    def top(self, k: int) -> Chosen:
        """The k trials with the best reports, best first, each once; fewer if there are fewer."""
        self._one_objective()
        if k == 1:
            best = "SELECT r.trial, r.id FROM report r WHERE r.id = (SELECT best FROM report ORDER BY id DESC LIMIT 1)"
            return Chosen(self._result(*row) for row in list(self.journal.rows(best)))
        found = [value for (value,) in self.journal.rows(_RANKED, VIOLATED, max(0, k))]
        return Chosen(self._result(*row) for row in list(self.journal.rows(_TOP, found[-1], len(found)))) if found else Chosen()

    @property
    def pareto(self) -> Chosen:
        """The trials with a report that no other report dominates, each once, ordered by their values.

        Of several such reports of a trial, the earliest whose weights are kept is shown, else the earliest. Of trials with equal reports
        the weights of the first are kept.
        """
        points: list[Point] = []
        for report, turn, trial, step, metrics in self.journal.rows("SELECT id, turn, trial, step, metrics FROM report ORDER BY id"):
            values = self.objective.values(from_json(metrics))
            if all(-_INFINITE < value < VIOLATED for value in values):
                points.append((values, turn, trial, report, step))
        kept = {(row.trial, row.step) for row in self.journal.checkpoints(purpose="keep")}
        shown: dict[int, tuple[bool, int, tuple[float, ...]]] = {}
        for values, _, trial, report, step in front(points):
            entry = ((trial, step) not in kept, report, values)
            shown[trial] = min(entry, shown.get(trial, entry))
        ordered = sorted((values, report, trial) for trial, (_, report, values) in shown.items())
        return Chosen(self._result(trial, report) for _, report, trial in ordered)

    def hypervolume(self, reference: Sequence[float] | None = None) -> list[Growth]:
        """How the volume between the reports and a reference point grew: a row for each report that enlarged it, in order.

        `reference`: a value for each metric, in its own direction, at which a report is worth nothing; what is worse in any metric
        counts for nothing. Studies are compared with one reference for all. None: a tenth of the extent behind this study's front.
        Empty if no report is finite or none is better than the reference.
        """
        return growth(self.journal, self.objective, reference)

    def get_best_result(
        self, metric: str | None = None, mode: Mode | None = None, scope: Literal["best", "last"] = "best"
    ) -> Result:
        """The best by any reported metric. `scope`: over all reports ("best"), or over the last one of each trial ("last")."""
        if scope not in ("best", "last"):
            raise ConfigurationError(f'scope: must be "best" or "last", but got {scope!r}.')
        if metric is None:
            self._one_objective()
            metric = self.objective.metrics[0]
        if mode is None:
            if metric not in self.objective.metrics:
                raise ConfigurationError(f'mode: "min" or "max" is needed for {metric!r}, which is not a metric of this study.')
            mode = self.objective.modes[self.objective.metrics.index(metric)]
        objective = Objective(metric, mode, self.journal.header.get("outcome_constraints") or ())
        if scope == "best" and self._single and (objective.metrics, objective.modes) == (self.objective.metrics, self.objective.modes):
            return self.best
        where = "" if scope == "best" else "WHERE id IN (SELECT last FROM trial)"
        best: tuple[float, int, int, int] | None = None
        for report, turn, trial, metrics in self.journal.rows(f"SELECT id, turn, trial, metrics FROM report {where} ORDER BY id"):
            value = objective.values(from_json(metrics))[0]
            if -_INFINITE < value < VIOLATED and (best is None or (value, turn, trial) < best[:3]):
                best = (value, turn, trial, report)
        return self._nothing(metric) if best is None else self._result(best[2], best[3])

    # All of them ----------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.journal.trials()

    @overload
    def __getitem__(self, trial: SupportsIndex) -> Result: ...
    @overload
    def __getitem__(self, trial: slice) -> Chosen: ...
    def __getitem__(self, trial: SupportsIndex | slice) -> Result | Chosen:
        if isinstance(trial, slice):
            return Chosen(self[id] for id in range(len(self))[trial])
        trial = operator.index(trial)
        for row in self._rows("WHERE t.id = ?", len(self) + trial if trial < 0 else trial):
            return self._made(row)
        raise IndexError(f"There are trials 0 to {len(self) - 1}, but trial {trial} was asked for.")

    def __iter__(self) -> Iterator[Result]:
        return map(self._made, self._rows("ORDER BY t.id"))

    def get_dataframe(self) -> Any:
        """A row for each trial, with its best report: trial, state, step, the metrics, config.<name>, time.

        A pandas DataFrame; without pandas, a list of dicts with the same keys.
        """
        return frame(self.records())

    def records(self) -> Iterator[Record]:
        """The rows of `get_dataframe`, one by one: a study of any size takes no memory."""
        for trial, config, state, _, _, step, metrics, time, *_ in self._rows("ORDER BY t.id"):
            yield record((trial, state, step, time), metrics, config)

    def curves(self) -> dict[int, list[dict[str, Any]]]:
        """For each trial its reports in order: the metrics and the step; a metric called step is metrics.step."""
        return curves(self.journal)

    def counts(self) -> dict[str, int]:
        """How many trials are in each state there is."""
        return dict(self.journal.rows("SELECT state, count(*) FROM trials GROUP BY state ORDER BY state"))

    @property
    def errors(self) -> list[TrialError]:
        """The failed trials, by trial id, those whose metric stopped being finite included."""
        rows = self._rows("WHERE t.state = 'failed' ORDER BY t.id")
        return [TrialError(row[0], row[3], line_of(error), error) for row in rows for error in [self._error(row) or ""]]

    @property
    def log(self) -> list[Note]:
        """What was worth knowing: each fallback, choice and retry."""
        return self.journal.notes()

    @property
    def stacks(self) -> list[str]:
        """In words: which stacks trials were trained in, what kept them apart, what was trained one by one; last, how many share one."""
        return [*(note.text for note in self.journal.notes("stack")), *filter(None, [self.members_per_stack])]

    @property
    def members_per_stack(self) -> str | None:
        """How many trials shared a stack, as it was said last: "12.4 trials per stack (...)". None: there were no stacks."""
        said = self.journal.notes(STACKS)
        return said[-1].text if said else None

    @property
    def header(self) -> dict[str, Any]:
        """What the study is: its settings, as JSON."""
        return self.journal.header

    @property
    def path(self) -> Path | None:
        """The study's folder; None: it was in memory."""
        return self.journal.folder

    @property
    def seconds(self) -> float:
        """Study time spent so far."""
        return self.journal.seconds

    def close(self) -> None:
        self.journal.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Results({self.header.get('name')!r}, {len(self)} trials: {self.counts()})"

    # What a Result needs --------------------------------------------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        if self._recipe is None:
            if self._trainable is None:
                raise ConfigurationError("load() and test() need the trainable, which no journal holds: Results.open(path, trainable=...).")
            from .training.recipe import recipe_of

            self._recipe = recipe_of(self._trainable, self.header.get("seeds", 1), self.header.get("folds"))
        return self._recipe

    @property
    def vault(self) -> Vault:
        if self._vault is None:
            from .vault import Vault

            if self.journal.folder is None:
                raise CheckpointError("The weights of a study in memory are gone with it. Give the Tuner a storage to keep them.")
            self._vault = Vault(self.journal.folder, self.journal)
        return self._vault

    @property
    def place(self) -> Place:
        from .training.runner import Place

        header = self.header
        name, seed = str(header.get("name", "")), header.get("seed", 0)
        return Place(max_t=header.get("max_t"), metrics=self.objective.needed, study=name, seed=seed)

    def launched(self, trial: int) -> Trial:
        """The trial as it was launched. Objects that JSON could not hold come from the space again, by the trial's x and seed."""
        return whole_trial(self.journal.trial(trial), self.header, self._space)

    def _rows(self, where: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        shown = "t.best" if self._single else _SHOWN
        return self.journal.rows(f"{_RESULT.format(report=shown)} {where}", *parameters)

    def _result(self, trial: int, report: int) -> Result:
        return self._made(next(self.journal.rows(f"{_RESULT.format(report='?1')} WHERE t.id = ?2", report, trial)))

    def _made(self, row: Sequence[Any]) -> Result:
        trial, config, state, _, _, step, metrics, time, done, launched, *_ = row
        config = from_json(config)
        shown: dict[str, Any] = {}
        reported = metrics_of(metrics)
        if step is not None:
            spent = max(0.0, time - launched)
            shown = {"training_iteration": step, "time_total_s": spent, "trial_id": trial, "config": config, "done": bool(done)}
            shown |= reported
        folder = self.journal.folder
        path = None if folder is None else folder / "trials" / f"{trial:06d}"
        return Result(trial, config, shown, reported, step, state, self._error(row), path, self)

    def _error(self, row: Sequence[Any]) -> str | None:
        if row[2] != "failed":
            return None
        if row[10] is not None:
            return text_of(row[10])
        last = next(self.journal.rows("SELECT metrics FROM report WHERE id = ?", row[11]))
        found = ", ".join(f"{name} = {value}" for name, value in metrics_of(last[0]).items() if name in self.objective.needed)
        return f"DivergedError: {found or 'no metric'} at step {row[4]}"

    def _one_objective(self) -> None:
        if not self._single:
            raise SeveralObjectivesError(f"No single trial is best in {list(self.objective.metrics)}. `results.pareto` holds the front.")

    def _nothing(self, metric: str) -> Result:
        failed = self.errors
        first = f" The first failure: {failed[0].line}" if failed else ""
        raise TorchtuneError(
            f"The best trial has a finite {metric!r} within the constraints, but none was reported yet (trials: {self.counts()}).{first}"
        )
