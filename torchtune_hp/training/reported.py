"""What a trial reports, made into plain values and checked: the border between the user's numbers and the study's.

Laws:
1. Out come only float, bool, str and None, under str keys. Numbers become floats: Python's, numpy's, 0-dim tensors.
2. Anything else is dropped, and said so once per trial and key.
3. A metric the study needs must be there and be a number, else ReportError; NaN and infinities are numbers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from ..errors import ReportError
from ..trial import Scalar


class Cleaner:
    """Cleans the reports of one trial. `needed`: metrics that each must hold as numbers."""

    def __init__(self, trial: int, needed: Sequence[str]) -> None:
        self.trial = trial
        self.needed = tuple(needed)
        self._noted: set[object] = set()

    def __call__(self, metrics: object, source: str = "report()") -> tuple[dict[str, Scalar], tuple[str, ...]]:
        """The metrics as plain values, and sentences about what was dropped. `source`: what gave them, for the error."""
        if not isinstance(metrics, Mapping):
            raise ReportError(
                f"Trial {self.trial}: {source} must give a dict of metrics{_such_as(self.needed)}, but gave {_kind(metrics)}."
            )
        clean: dict[str, Scalar] = {}
        notes: list[str] = []
        for key, value in metrics.items():
            kind = type(value)
            if kind is float and type(key) is str:       # nearly always
                clean[key] = value
                continue
            kept = _plain(value) if isinstance(key, str) else _DROPPED
            if kept is not _DROPPED:
                clean[str.__str__(key)] = kept  # type: ignore[assignment]
            elif key not in self.needed and key not in self._noted:
                self._noted.add(key)
                notes.append(self._dropped(key, value))
        for name in self.needed:
            if type(clean.get(name)) is not float:
                raise ReportError(self._refused(name, metrics, source))
        return clean, tuple(notes)

    def _dropped(self, key: object, value: object) -> str:
        if not isinstance(key, str):
            return f"Trial {self.trial}: the metric under {key!r} was dropped: the name of a metric is a str, not {_kind(key)}."
        return f"Trial {self.trial}: the metric {key!r} was dropped: it is {_kind(value)}, not a number, bool, str or None."

    def _refused(self, name: str, metrics: Mapping[Any, Any], source: str) -> str:
        if name in metrics:
            return (
                f"Trial {self.trial}: the metric {name!r} must be a number (int, float, 0-dim tensor or numpy scalar), "
                f"but {source} gave {_kind(metrics[name])}."
            )
        came = [key for key in metrics if isinstance(key, str)]
        close = difflib.get_close_matches(name.lower(), [key.lower() for key in came], n=1)
        meant = next((key for key in came if close and key.lower() == close[0]), None)
        hint = f"Report it under the name {name!r}." if meant is None else f"Did you mean {meant!r}?"
        held = f"only {came}" if came else "none"
        return f"Trial {self.trial}: the metric {name!r} must be in every report, but {source} gave {held}. {hint}"


def is_news(metrics: Mapping[str, Scalar], last: Mapping[str, Scalar]) -> bool:
    """Whether `metrics` holds anything that `last` does not; NaN equals NaN here."""
    return any(key not in last or not _equal(value, last[key]) for key, value in metrics.items())


def _equal(a: Scalar, b: Scalar) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b))


_DROPPED = object()


def _plain(value: object) -> object:
    """A float, bool, str or None; `_DROPPED` for anything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Real):         # int, Fraction, numpy's integers and floats
        try:
            return float(value)
        except OverflowError:           # an int of more than 308 digits
            return math.inf if value > 0 else -math.inf  # type: ignore[operator]
        except TypeError:               # numpy counts a timedelta among the integers
            return _DROPPED
    if isinstance(value, str):
        return str.__str__(value)       # np.str_ and string enums too
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0:
        return _plain(value.item())
    return _DROPPED


def _kind(value: object) -> str:
    """A value's type in words, with the shape where that is the point."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if value is None:
        return "None"
    if isinstance(value, (str, bool, complex)):
        return f"{value!r} of type {type(value).__name__}"
    return f"a value of type {type(value).__name__}"


def _such_as(needed: Sequence[str]) -> str:
    return f" such as {{{', '.join(f'{name!r}: ...' for name in needed)}}}" if needed else ""
