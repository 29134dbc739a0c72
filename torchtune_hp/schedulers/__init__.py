"""How much to spend on which trial. `base.py` is the contract; every other file is one idea."""

from .asha import ASHA
from .base import Scheduler
from .full import FullRuns
from .halving import SuccessiveHalving
from .hyperband import Hyperband
from .median import MedianStopping

__all__ = ["ASHA", "FullRuns", "Hyperband", "MedianStopping", "Scheduler", "SuccessiveHalving"]
