"""Who does the work: one after another, all at once, in processes, or in virtual time."""

from .fused import Fused
from .processes import Processes
from .serial import Serial
from .simulated import Simulated

__all__ = ["Fused", "Processes", "Serial", "Simulated"]
