"""Who does the work: one after another, in processes, or in virtual time."""

from .processes import Processes
from .serial import Serial
from .simulated import Simulated

__all__ = ["Processes", "Serial", "Simulated"]
