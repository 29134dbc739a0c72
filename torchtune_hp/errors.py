"""Everything that can go wrong and that a user can act on.

    TorchtuneError
    |-- SpaceError               a search space that cannot be searched            (also a ValueError)
    |-- ConfigurationError       a study that cannot be run as it was asked for    (also a ValueError)
    |-- ReportError              a report that lacks the metric or is of a wrong type   (also a ValueError)
    |-- DivergedError            a training whose loss is not finite any more
    |-- TrialFinishedError       a report for a trial that has ended
    |-- SeveralObjectivesError   `best` of a study with several objectives: use `pareto`
    |-- StudyFailedError         trials failed one after another; carries the first traceback
    |-- StudyExistsError         a study of this name is there already
    |-- StudyNotFoundError       no study at this path
    |-- StudyLockedError         another process drives this study
    |-- StudyChangedError        resumed with another space, metric or seed; carries the diff
    |-- ReplayError              the journal and the decisions computed from it disagree
    |-- JournalError             the journal cannot be read or written
    `-- CheckpointError          a checkpoint that is missing or damaged
        `-- UnsafeCheckpointError    a checkpoint that would run code, or a state that cannot be stored safely

    TrialStopped (BaseException)          raised inside `report` to end a train function; not an error
    StudyInterrupted (KeyboardInterrupt)  a signal ended the session, and the study can be resumed; in interrupts.py
"""

from __future__ import annotations


class TorchtuneError(Exception):
    """The root: `except hp.TorchtuneError` catches whatever this library raises on purpose."""


class SpaceError(TorchtuneError, ValueError):
    """A search space that cannot be searched; names the parameter, the value and the way out."""


class ConfigurationError(TorchtuneError, ValueError):
    """A study that cannot be run as asked; lists every problem at once, each with the argument it is about."""


class ReportError(TorchtuneError, ValueError):
    """A report that lacks a metric the study needs, or holds a value of a wrong type."""


class DivergedError(TorchtuneError):
    """A training whose loss or metric is not finite any more. Raise it to end a trial as diverged."""


class TrialFinishedError(TorchtuneError):
    """A report for a trial that has ended; terminal states never change."""


class SeveralObjectivesError(TorchtuneError):
    """There is no single best trial of several objectives; `results.pareto` holds the front."""


class StudyFailedError(TorchtuneError):
    """Trials failed one after another, or all of them; the first traceback is in the message."""


class StudyExistsError(TorchtuneError):
    """A study of this name is there already; the message holds the command that resumes it."""


class StudyNotFoundError(TorchtuneError):
    """No study at this path."""


class StudyLockedError(TorchtuneError):
    """Another process drives this study; the message names it."""


class StudyChangedError(TorchtuneError):
    """The study is resumed with something that differs from its journal; the message is a diff."""


class ReplayError(TorchtuneError):
    """A decision recomputed from the journal differs from the recorded one; the message names the turn."""


class JournalError(TorchtuneError):
    """The journal cannot be read or written; the message says what is wrong and what to do."""


class CheckpointError(TorchtuneError):
    """A checkpoint that is missing or damaged."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that would run code when loaded, or a state that cannot be stored without that."""


class TrialStopped(BaseException):
    """Raised inside `report` to end a train function. A BaseException, so that `except Exception` lets it through."""
