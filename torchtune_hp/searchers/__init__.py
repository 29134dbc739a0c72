"""Where to look: one idea a file; `base.py` is the contract."""

from .base import Base, Searcher
from .gp import GPSearch
from .grid import GridSearch
from .random import RandomSearch
from .sobol import SobolSearch

__all__ = ["Base", "GPSearch", "GridSearch", "RandomSearch", "Searcher", "SobolSearch"]
