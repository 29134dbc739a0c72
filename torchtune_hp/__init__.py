"""torchtune_hp: hyperparameter tuning for PyTorch that trains the whole population as one tensor program.

    import torchtune_hp as hp

A name is loaded when it is first used: importing the package costs next to nothing, and a command that only reads a study
loads no torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .asktell import AskTell as AskTell
    from .errors import (
        CheckpointError as CheckpointError,
    )
    from .errors import (
        ConfigurationError as ConfigurationError,
    )
    from .errors import (
        DivergedError as DivergedError,
    )
    from .errors import (
        JournalError as JournalError,
    )
    from .errors import (
        ReplayError as ReplayError,
    )
    from .errors import (
        ReportError as ReportError,
    )
    from .errors import (
        SeveralObjectivesError as SeveralObjectivesError,
    )
    from .errors import (
        SpaceError as SpaceError,
    )
    from .errors import (
        StudyChangedError as StudyChangedError,
    )
    from .errors import (
        StudyExistsError as StudyExistsError,
    )
    from .errors import (
        StudyFailedError as StudyFailedError,
    )
    from .errors import (
        StudyLockedError as StudyLockedError,
    )
    from .errors import (
        StudyNotFoundError as StudyNotFoundError,
    )
    from .errors import (
        TorchtuneError as TorchtuneError,
    )
    from .errors import (
        TrialFinishedError as TrialFinishedError,
    )
    from .errors import (
        TrialStopped as TrialStopped,
    )
    from .errors import (
        UnsafeCheckpointError as UnsafeCheckpointError,
    )
    from .executors import Processes as Processes
    from .executors import Serial as Serial
    from .executors import Simulated as Simulated
    from .interrupts import StudyInterrupted as StudyInterrupted
    from .observers.base import Observer as Observer
    from .observers.base import StudyInfo as StudyInfo
    from .results import Result as Result
    from .results import Results as Results
    from .schedulers import (
        ASHA as ASHA,
    )
    from .schedulers import (
        FullRuns as FullRuns,
    )
    from .schedulers import (
        Hyperband as Hyperband,
    )
    from .schedulers import (
        MedianStopping as MedianStopping,
    )
    from .schedulers import (
        SuccessiveHalving as SuccessiveHalving,
    )
    from .searchers import GridSearch as GridSearch
    from .searchers import RandomSearch as RandomSearch
    from .searchers import SobolSearch as SobolSearch
    from .space import (
        Space as Space,
    )
    from .space import (
        choice as choice,
    )
    from .space import (
        grid_search as grid_search,
    )
    from .space import (
        lograndint as lograndint,
    )
    from .space import (
        loguniform as loguniform,
    )
    from .space import (
        mapped as mapped,
    )
    from .space import (
        ordinal as ordinal,
    )
    from .space import (
        qlograndint as qlograndint,
    )
    from .space import (
        qloguniform as qloguniform,
    )
    from .space import (
        qrandint as qrandint,
    )
    from .space import (
        qrandn as qrandn,
    )
    from .space import (
        quniform as quniform,
    )
    from .space import (
        randint as randint,
    )
    from .space import (
        randn as randn,
    )
    from .space import (
        sample_from as sample_from,
    )
    from .space import (
        uniform as uniform,
    )
    from .stopping import MaxSteps as MaxSteps
    from .stopping import Plateau as Plateau
    from .training.augment import (
        cutout as cutout,
    )
    from .training.augment import (
        mixup as mixup,
    )
    from .training.augment import (
        normalize as normalize,
    )
    from .training.augment import (
        random_crop as random_crop,
    )
    from .training.augment import (
        random_flip as random_flip,
    )
    from .training.context import context as context
    from .training.data import Data as Data
    from .training.function import get_checkpoint as get_checkpoint
    from .training.function import report as report
    from .training.function import trainable as trainable
    from .training.hooks import ModelTrainable as ModelTrainable
    from .training.recipe import with_parameters as with_parameters
    from .training.trainable import Trainable as Trainable
    from .trial import Trial as Trial
    from .tuner import Tuner as Tuner
    from .tuner import tune as tune
    from .version import __version__ as __version__

_HOMES = {
    "asktell": "AskTell",
    "errors": "CheckpointError ConfigurationError DivergedError JournalError ReplayError ReportError SeveralObjectivesError SpaceError "
    "StudyChangedError StudyExistsError StudyFailedError StudyLockedError StudyNotFoundError TorchtuneError TrialFinishedError "
    "TrialStopped UnsafeCheckpointError",
    "executors": "Processes Serial Simulated",
    "interrupts": "StudyInterrupted",
    "observers.base": "Observer StudyInfo",
    "results": "Result Results",
    "schedulers": "ASHA FullRuns Hyperband MedianStopping SuccessiveHalving",
    "searchers": "GridSearch RandomSearch SobolSearch",
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
    "trial": "Trial",
    "tuner": "Tuner tune",
    "version": "__version__",
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore


def __getattr__(name: str) -> _Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
