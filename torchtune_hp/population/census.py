"""How many trials share a stack: the figure that decides what fusing is worth. What shrinks it, by the parameter's name.

Laws:
1. The figure is trials / kinds over all that was trained so far, however each kind was trained.
2. The parameter that splits most: of the attributes in which kinds differ the one with most values; of the config's keys that
   determine it the one with fewest, and where only several together do, of those that it determines the one with most.
   A float makes no shape and no whole number, however well it fits.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

STACKS = "stacks"
"""The kind of the notes that hold the figure."""
SMALL = 4
"""Under so many trials per stack a study is told, ..."""
ENOUGH = 8
"""... if so many trials or more stand side by side."""
LOCAL = "<locals>"
"""In the place of a key of the config: the trials' classes differ, and are made by one and the same line."""
DATA = "its data"
"""What a kind's data is called."""
EARLY = 3
"""Rounds before a judgement."""


class Census:
    """`add` each round; `news` is the line to say, now and then; `small`: whether stacks are small for what there is.

    `each`: what is counted, "trials" or their "replicas".
    """

    def __init__(self) -> None:
        self.each = "trials"
        self._rounds = self._trials = self._kinds = 0
        self._next = 1
        self._line = self._said = ""

    @property
    def mean(self) -> float:
        """Trials per stack."""
        return self._trials / max(1, self._kinds)

    def add(self, sizes: Sequence[int], alone: int) -> None:
        """A round: how many trials of each kind were trained, and how many of all of them one by one."""
        self._rounds += 1
        self._trials += sum(sizes)
        self._kinds += len(sizes)
        one_by_one = f", {alone} one by one" if alone else ""
        self._line = f"{self.mean:.3g} {self.each} per stack (last {sum(sizes)} in {len(sizes)}{one_by_one})"

    def news(self) -> str | None:
        """The line, if it is another than before: after 1, 2, 4, 7, 11, ... rounds, so that a log does not grow with them."""
        if self._rounds < self._next or self._line == self._said:
            return None
        self._next, self._said = self._rounds + 1 + self._rounds // 2, self._line
        return self._line

    @property
    def small(self) -> bool:
        """Whether more trials could share a stack than do."""
        return self._rounds >= EARLY and self.mean < SMALL and self._trials >= ENOUGH * self._rounds


def splits_most(trials: Sequence[tuple[Mapping[str, Any], Mapping[str, Hashable]]]) -> tuple[str, str, int] | None:
    """(config, what its kind is) of each -> (the config's key or "", the attribute, how many values it has); None: nothing differs."""
    names = dict.fromkeys(name for _, kind in trials for name in kind)
    columns = {name: [kind.get(name) for _, kind in trials] for name in names}
    attribute = max(columns, key=lambda name: len(set(columns[name])), default="")
    values = columns.get(attribute, [])
    if len(set(values)) < 2:
        return None
    if len({value.__qualname__ if isinstance(value, type) else value for value in values}) == 1:
        return LOCAL, attribute, len(set(values))
    leaves = [dict(_leaves(config)) for config, _ in trials]
    keys = {key: [repr(each.get(key)) for each in leaves] for key in dict.fromkeys(key for each in leaves for key in each)}
    if attribute.startswith("shape of ") or all(isinstance(value, int) for value in values):
        keys = {key: column for key, column in keys.items() if not any(isinstance(each.get(key), float) for each in leaves)}
    kinds = {key: len(set(column)) for key, column in keys.items() if len(set(column)) > 1}
    together = {key: len(set(zip(keys[key], values))) for key in kinds}
    determining = [key for key in kinds if together[key] == kinds[key]]
    determined = [key for key in kinds if together[key] == len(set(values))]
    key = min(determining, key=kinds.__getitem__) if determining else max(determined, key=kinds.__getitem__, default="")
    return key, attribute, len(set(values))


def advice(name: str, census: Census, found: tuple[str, str, int]) -> str:
    """What a study with small stacks is told. `name`: of its trainable."""
    return f"{name}: only {census.mean:.2g} {census.each} share a stack, so little is gained by training them at once: {_why(found)}"


def one_by_one(name: str, census: Census, n: int, found: tuple[str, str, int]) -> str:
    """What is said where few stand side by side, n of them, and no stack comes about."""
    return f"{name}: the {n} {census.each} that run now are trained one by one, for too few of them are alike: {_why(found)}"


def _why(found: tuple[str, str, int]) -> str:
    """What keeps them apart, and the way out."""
    key, attribute, values = found
    if key == LOCAL:
        return (
            f"{attribute} is of {values} classes of one name, for one is made whenever the function that holds it runs. Define the class "
            "outside of setup."
        )
    if attribute == DATA:
        return "each has data of its own. Make it once, in ModelTrainable.data() or a function that hp.Trainer is given."
    if attribute.endswith(_HOOKS):
        place = ".".join(("model", *attribute.split(".")[:-1]))
        return (
            f"a forward hook on {place} is another one for each, a method or a function that closes over what is each one's own. Keep what "
            "it is after in the forward of a module of yours (self.hidden = ...): there it is each one's own, and read in a step."
        )
    what = f"{key!r} splits most: {attribute} has {values} values" if key else f"{attribute} splits most, by {values} values"
    return (
        f"{what} among those that run now. Stacks grow where it is fixed or has few values, as hp.choice([...]); a number that a hook "
        "reads does not split as self.hparams[...], and torchtune_hp.functional has functions that take it."
    )


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def _leaves(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
