"""Trainable: a trial as a class, with Ray Tune's method names, and its Runner.

    class MyTrainable(hp.Trainable):
        def setup(self, config): ...                      # build; under the trial's own seed
        def step(self): return {"accuracy": ...}          # one unit of budget; {"done": True} ends the trial
        def save_checkpoint(self, checkpoint_dir): ...    # return a dict, or write files into the folder
        def load_checkpoint(self, checkpoint): ...        # that dict, or the folder's path
        def cleanup(self): ...

A class written for Ray Tune ports by changing its base. Keys that Ray fills in by itself (`timestamp`, `time_total_s`, ...)
are not: they are computed where a result is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import finalize

from ..errors import CheckpointError, ConfigurationError, TrialFinishedError
from ..parts import as_int
from ..seeds import derive
from ..trial import Config, Scalar, Trial
from .context import NOWHERE, Context, Session, current
from .reported import Cleaner
from .runner import Look, Place, State
from .seeding import seeded
from .states import forget, fresh_folder, handed, own_config, snapshot


class Trainable:
    """Subclass this; only `step` must be there.

    Constructing one by hand runs `setup`, so that it can be tried alone: `MyTrainable({"lr": 0.1}).step()`.
    `max_t` on the class is the step at which a trial ends by itself, None if it has no end of its own; in an instance it is
    how far the trial can get in this study.
    """

    max_t: int | None = None

    def __init__(self, config: Config | None = None, **keywords: Any) -> None:
        self.config: dict[str, Any] = own_config(dict(config or {}))
        session = current()
        self._context: Context = NOWHERE if session is None else session.context
        self._iteration = 0
        self._scratch = None if session is None else session.place.scratch
        self._folder: Path | None = None
        ends = [bound for bound in (as_int(type(self).max_t), self._context.max_t) if bound is not None]
        self.max_t = min(ends) if ends else None
        self.setup(self.config, **keywords)

    def setup(self, config: dict[str, Any]) -> None:
        """Builds what is to be trained. May name further keywords, which `hp.with_parameters` gives."""

    def step(self) -> dict[str, Any]:
        """Trains one unit of budget and returns the metrics."""
        raise NotImplementedError(f"{type(self).__name__} must have step(self) -> dict.")

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | str | None:
        """Returns the state as a dict, or writes it as files into `checkpoint_dir`. A class without this cannot be saved."""
        raise NotImplementedError(f"{type(self).__name__} has no save_checkpoint(), so it cannot be saved.")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Takes the state back: the dict that was returned, or the path (a str) of the folder that was written."""
        raise NotImplementedError(f"{type(self).__name__} has save_checkpoint() but no load_checkpoint(), so it cannot be loaded.")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Whether this object has become a trial of `new_config`. Part of Ray's interface; here a trial is always built anew."""
        return False

    def cleanup(self) -> None:
        """Called once when the trial ends, however it ends."""

    @property
    def iteration(self) -> int:
        """Units of budget trained so far; inside `step` the running one is not counted."""
        return self._iteration

    @property
    def training_iteration(self) -> int:
        return self._iteration

    @property
    def trial_id(self) -> str:
        """The trial's number with six digits, the name of its folder; "alone" outside a study. `hp.context()` has the int."""
        return "alone" if self._context.trial_id is None else f"{self._context.trial_id:06d}"

    @property
    def trial_name(self) -> str:
        return f"{type(self).__name__}_{self.trial_id}"

    @property
    def logdir(self) -> str:
        """The path of a folder for the trial's own files; where the study is in memory, and outside of one, a temporary one, which is
        removed when the trial ends, or this object is let go of."""
        if self._folder is None:
            given = self._context.dir
            if given is None:
                self._folder = fresh_folder(self._scratch, self.trial_name)
                finalize(self, forget, self._folder)
            else:
                self._folder = given
            self._folder.mkdir(parents=True, exist_ok=True)
        return str(self._folder)


class TrainableRunner(Session):
    """A live Trainable. The object is built and loaded under the seed "setup", each unit runs under the seed of its step."""

    def __init__(self, recipe: TrainableRecipe, trial: Trial, place: Place, state: State | None, step: int) -> None:
        super().__init__(trial, place)
        self.name = recipe.name
        self.step = step
        self._recipe = recipe
        self._clean = Cleaner(trial.id, place.metrics)
        self._over = self._closed = False
        try:
            with seeded(derive(trial.seed, "setup")), self:
                self.trainable = recipe.built(trial.config, state, step)
        except BaseException:
            self.end()
            raise

    def advance(self) -> Look:
        if self._over or self._closed:
            raise TrialFinishedError(f"Trial {self.trial.id} has ended and cannot be advanced any more.")
        with seeded(derive(self.trial.seed, "step", self.step + 1)), self:
            result = self.trainable.step()
        source = f"{self._recipe.name}.step()"
        done = isinstance(result, Mapping) and bool(result.get("done", False))
        metrics, notes = self._clean(result, source)
        metrics.pop("done", None)
        self.step += 1
        self.trainable._iteration = self.step
        self._over = done or (self._recipe.max_t is not None and self.step >= self._recipe.max_t)
        return Look(self.step, metrics, self._over, notes)

    def save(self) -> State | None:
        """The state, sharing nothing with the live object. A folder belongs to the caller from now on."""
        if not self._recipe.saves:
            return None
        folder = fresh_folder(self.place.under, f"saved-{self.step:06d}")
        state: dict[str, Any] | None = None
        try:
            with self:
                state = self._said(self.trainable.save_checkpoint(str(folder)), folder)
            written = any(folder.iterdir())
            if state is not None and written:
                raise CheckpointError(
                    f"Trial {self.trial.id}: {self._recipe.name}.save_checkpoint() must either return a dict or write files, but did both. "
                    "Put into the dict what belongs to the state, or return nothing."
                )
        except BaseException:
            forget(folder)
            raise
        if written:
            return folder
        forget(folder)
        return state

    def _said(self, result: object, folder: Path) -> dict[str, Any] | None:
        if isinstance(result, Mapping):
            return {key: snapshot(value) for key, value in result.items()}
        if result is None or (isinstance(result, (str, Path)) and Path(result) == folder):
            return None
        raise CheckpointError(
            f"Trial {self.trial.id}: {self._recipe.name}.save_checkpoint() must return a dict, or None or checkpoint_dir after writing "
            f"files into it, but returned {result!r}."
        )

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with self:
                self.trainable.cleanup()
        finally:
            self.end()
            folder = self.trainable._folder
            if folder is not None and folder != self.place.folder:
                forget(folder)


class TrainableRecipe:
    """A Trainable subclass and its keywords, as executors see it."""

    def __init__(self, cls: type[Trainable], keywords: Mapping[str, Any]) -> None:
        self.cls = cls
        self.keywords = keywords
        self.name = cls.__name__
        self.saves = cls.save_checkpoint is not Trainable.save_checkpoint
        self.max_t: int | None = as_int(cls.max_t)
        self.ends = cls.max_t is not None

    def built(self, config: Config, state: State | None, step: int) -> Trainable:
        trainable = self.cls(config, **self.keywords)
        trainable._iteration = step
        if state is not None:
            given = handed(state)
            trainable.load_checkpoint(str(given) if isinstance(given, Path) else given)
        return trainable

    def start(self, trial: Trial, place: Place, state: State | None = None, step: int = 0) -> TrainableRunner:
        return TrainableRunner(self, trial, place, state, step)

    def restore(self, trial: Trial, place: Place, state: State, step: int) -> Trainable:
        """The object with its state loaded; whoever holds it calls `cleanup`."""
        session = Session(trial, place)
        try:
            with seeded(derive(trial.seed, "setup")), session:
                return self.built(trial.config, state, step)
        finally:
            session.end()

    def test(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        raise ConfigurationError(
            f"best.test() needs a test set, but {self.name} is an hp.Trainable: evaluate what best.load() gives, or use hp.ModelTrainable."
        )


def check_class(cls: type[Trainable]) -> None:
    """Refuses a class that could not be trained or loaded."""
    if cls.max_t is not None and not (type(as_int(cls.max_t)) is int and cls.max_t >= 1):
        raise ConfigurationError(f"{cls.__name__}.max_t: `max_t >= 1` must hold for the step a trial ends at, but got {cls.max_t!r}.")
    if cls.step is Trainable.step:
        raise ConfigurationError(f"{cls.__name__} must have step(self) -> dict: it trains one unit of budget and returns the metrics.")
    if cls.save_checkpoint is not Trainable.save_checkpoint and cls.load_checkpoint is Trainable.load_checkpoint:
        raise ConfigurationError(f"{cls.__name__} has save_checkpoint() but no load_checkpoint(): what is saved must be loaded again.")
