"""Keeps under way: what was asked to be kept, and what may be forgotten once it is."""

from __future__ import annotations

from ..trial import Keep


class Keeps:
    """Between a Keep and the arrival of the state other Keeps may come; the newest word on a trial counts.

    >>> keeps = Keeps()
    >>> keeps.ask(Keep(3, (1,))), keeps.ask(Keep(5, (3,)))
    (None, None)
    >>> keeps.arrived(3), sorted(keeps.arrived(5))
    (None, [1, 3])
    """

    def __init__(self) -> None:
        self._asked: dict[int, set[int]] = {}       # trial -> those to be forgotten once it is kept

    def ask(self, command: Keep) -> None:
        forget = set(command.instead_of)
        for trial in (command.trial, *command.instead_of):
            forget |= self._asked.pop(trial, set())
        for others in self._asked.values():
            others.discard(command.trial)
        self._asked[command.trial] = forget - {command.trial}

    def arrived(self, trial: int) -> set[int] | None:
        """The trials to be forgotten once this one is stored; None: it is not to be kept any more."""
        return self._asked.pop(trial, None)
