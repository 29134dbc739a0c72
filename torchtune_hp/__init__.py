"""torchtune_hp: hyperparameter tuning for PyTorch.

    import torchtune_hp as hp

A name is loaded when it is first used: importing the package costs next to nothing, and a command that only reads a study
loads no torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

if _TYPE_CHECKING:
    from . import functional as functional, metrics as metrics
    from .asktell import AskTell as AskTell
    from .errors import (
        CheckpointError as CheckpointError,
        ConfigurationError as ConfigurationError,
        DivergedError as DivergedError,
        JournalError as JournalError,
        ReplayError as ReplayError,
        ReportError as ReportError,
        SeveralObjectivesError as SeveralObjectivesError,
        SpaceError as SpaceError,
        StudyChangedError as StudyChangedError,
        StudyExistsError as StudyExistsError,
        StudyFailedError as StudyFailedError,
        StudyLockedError as StudyLockedError,
        StudyNotFoundError as StudyNotFoundError,
        TorchtuneError as TorchtuneError,
        TrialFinishedError as TrialFinishedError,
        TrialStopped as TrialStopped,
        UnsafeCheckpointError as UnsafeCheckpointError,
    )
    from .executors import Fused as Fused, Processes as Processes, Serial as Serial, Simulated as Simulated
    from .interrupts import StudyInterrupted as StudyInterrupted
    from .observers.base import Observer as Observer, StudyInfo as StudyInfo
    from .population.population import Population as Population
    from .results import Result as Result, Results as Results
    from .schedulers import (
        ASHA as ASHA,
        FullRuns as FullRuns,
        Hyperband as Hyperband,
        MedianStopping as MedianStopping,
        SuccessiveHalving as SuccessiveHalving,
    )
    from .searchers import GPSearch as GPSearch, GridSearch as GridSearch, RandomSearch as RandomSearch, SobolSearch as SobolSearch
    from .space import (
        Space as Space,
        choice as choice,
        grid_search as grid_search,
        lograndint as lograndint,
        loguniform as loguniform,
        mapped as mapped,
        ordinal as ordinal,
        qlograndint as qlograndint,
        qloguniform as qloguniform,
        qrandint as qrandint,
        qrandn as qrandn,
        quniform as quniform,
        randint as randint,
        randn as randn,
        sample_from as sample_from,
        uniform as uniform,
    )
    from .stopping import MaxSteps as MaxSteps, Plateau as Plateau
    from .training.augment import (
        cutout as cutout,
        mixup as mixup,
        normalize as normalize,
        random_crop as random_crop,
        random_flip as random_flip,
    )
    from .training.context import context as context
    from .training.data import Data as Data
    from .training.function import get_checkpoint as get_checkpoint, report as report, trainable as trainable
    from .training.hooks import ModelTrainable as ModelTrainable
    from .training.recipe import with_parameters as with_parameters
    from .training.trainable import Trainable as Trainable
    from .training.trainer import Trainer as Trainer
    from .trial import Trial as Trial
    from .tuner import Tuner as Tuner, tune as tune
    from .version import __version__ as __version__

_HOMES = {
    "asktell": "AskTell",
    "errors": "CheckpointError ConfigurationError DivergedError JournalError ReplayError ReportError SeveralObjectivesError SpaceError "
    "StudyChangedError StudyExistsError StudyFailedError StudyLockedError StudyNotFoundError TorchtuneError TrialFinishedError "
    "TrialStopped UnsafeCheckpointError",
    "executors": "Fused Processes Serial Simulated",
    "interrupts": "StudyInterrupted",
    "observers.base": "Observer StudyInfo",
    "population.population": "Population",
    "results": "Result Results",
    "schedulers": "ASHA FullRuns Hyperband MedianStopping SuccessiveHalving",
    "searchers": "GPSearch GridSearch RandomSearch SobolSearch",
    "space": "Space choice grid_search lograndint loguniform mapped ordinal qlograndint "
    "qloguniform qrandint qrandn quniform randint randn sample_from uniform",
    "stopping": "MaxSteps Plateau",
    "training.augment": "cutout mixup normalize random_crop random_flip",
    "training.context": "context",
    "training.data": "Data",
    "training.function": "get_checkpoint report trainable",
    "training.hooks": "ModelTrainable",
    "training.recipe": "with_parameters",
    "training.trainable": "Trainable",
    "training.trainer": "Trainer",
    "trial": "Trial",
    "tuner": "Tuner tune",
    "version": "__version__",
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

_MODULES = ("functional", "metrics")
__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
