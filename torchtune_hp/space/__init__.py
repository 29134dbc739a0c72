"""Domains and the mapping between configs and the unit cube. `domains` holds the words, `space` the laws."""

from __future__ import annotations

from .difference import difference
from .domains import (
    Domain,
    choice,
    grid_search,
    lograndint,
    loguniform,
    mapped,
    ordinal,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from .space import Space

__all__ = [
    "Domain",
    "Space",
    "choice",
    "difference",
    "grid_search",
    "loguniform",
    "lograndint",
    "mapped",
    "ordinal",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "sample_from",
    "uniform",
]
