"""What the driver knows of a trial that lives elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from ..trial import Launch, Train
from .crew import Member
from .messages import Said
from .origins import Origin


@dataclass(slots=True)
class Track:
    """A live trial. `step`: of its last look."""

    trial: int
    packed: bytes
    step: int
    parent: Origin | None = None        # of a fork: where its parent stood then
    until: int | None = None            # where it was sent; None: it rests
    given: bool = False                 # a worker was told so
    holder: Member | None = None        # where it lives
    dirty: bool = False                 # trained since its state was durable
    failed: bool = False
    deaths: int = 0

    @property
    def sent_to(self) -> int:
        return self.step if self.until is None else self.until

    def origin(self) -> Origin:
        return Origin(self.trial, self.packed, self.step, None, self.parent)

    def lost(self, why: str, passed: int, on_disk: bool) -> Said:
        """What is said once too many workers have died at it. `passed`: the step it is known to have passed."""
        text = f"The worker process that trained this trial died ({why}), and so did the one before it."
        if on_disk:
            text += f" What it wrote, a crash's stack included, is in trials/{self.trial:06d}/output.txt."
        return Said(self.trial, max(self.step, passed) + 1, 0.0, kind="lost", error=text)


def trial_of(command: Launch | Train) -> int:
    return command.trial.id if isinstance(command, Launch) else command.trial
