"""What the engine says of its stacks: which there are, what told them apart, what was chosen and why. Each thing once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ..training.alone import ModelRunner
from .kinds import Kind, Structure, begins
from .padding import obstacle, widths
from .reads import Read, shown
from .sorting import streamed
from .stack import Stack

Note = Callable[[str, str], None]
"""(kind, text)"""

_FEW = "few trials share a stack"
_SIZES = ("_features: ", "_channels: ", "shape of ")


class Words:
    """`note` hears them. `each`: what its members are, "trials" or their "replicas"."""

    def __init__(self, note: Note) -> None:
        self.each = "trials"
        self._note = note
        self._said: set[Hashable] = set()
        self._named: set[str] = set()           # classes of whose stacks something was said, or asked for once
        self._numbers: dict[Any, int] = {}      # of the kinds that were stacked

    def say(self, kind: str, text: str, once: Hashable = None) -> None:
        """`once`: what is said by it; the text itself where it is not given."""
        if (once or text) not in self._said:
            self._said.add(once or text)
            self._named.add(text.partition(":")[0])
            self._note(kind, text)

    def formed(self, kind: Kind, members: Sequence[ModelRunner]) -> None:
        """Of a kind that is stacked for the first time: how it differs from the first one of its class."""
        if kind in self._numbers:
            return
        earlier = [other for other in self._numbers if other[0][0] is kind[0][0]]
        self._numbers[kind] = number = len(earlier) + 1
        text = begins(kind, f"{len(members)} {self.each}", number, earlier[0] if earlier else None)
        mixing = obstacle(members[0].member.model) if any(size in text for size in _SIZES) else ""
        self.say("stack", f"{text} Widths are not padded where there is a {mixing}." if mixing else text)

    def renamed(self, kind: Kind, new: Kind) -> None:
        """More is known of a kind than before; it is the same one."""
        if kind in self._numbers:
            self._numbers[new] = self._numbers.pop(kind)

    def widened(self, stack: Stack, members: Sequence[ModelRunner]) -> None:
        """To what the widths of a stack are padded."""
        wide = sorted({unit for unit, times in widths(stack.model).values() if times == 1})
        name, sizes, many = type(members[0].member).__name__, ", ".join(map(str, wide)), f"{len(members)} {self.each}"
        self.say("stack", f"{name}: widths are padded to {sizes}: {many} of different ones share a stack.", (name, sizes))

    def joined(self, stack: Stack, members: Sequence[ModelRunner]) -> None:
        """Which activations a stack has."""
        name, many = type(members[0].member).__name__, f"{len(members)} {self.each}"
        own = list(dict.fromkeys(each.said for each in stack.several.values()))
        self.say("stack", f"{name}: activations are each one's own, {'; '.join(own)}: {many} share a stack.", (name, "forms", *own))

    def apart(self, structure: Structure, differ: Sequence[Read], why: Mapping[Read, str]) -> None:
        """What hooks read, differs and splits. `why`: what stood against lifting it."""
        cls = structure[0]
        names = ", ".join(shown(read).removeprefix(cls._self) for read in differ)
        said = (
            f"{cls.__name__}: the hooks read {names}, which differs between trials: one stack for each value. A number read as "
            f"{cls._numbers} would not split them."
        )
        self.say("stack", " ".join([said, *dict.fromkeys(why[read] for read in differ if read in why)]))

    def places(self, sorts: Mapping[tuple[Kind, Hashable], Sequence[ModelRunner]]) -> None:
        """That trials of a kind stand at different places of a DataLoader."""
        places = Counter(kind for kind, _ in sorts)
        for (kind, _), members in sorts.items():
            if places[kind] > 1 and streamed(members[0]):
                name = type(members[0].member).__name__
                self.say(
                    "stack", f"{name}: trials stand at different places of the DataLoader. From each place it is played once, for those "
                    "that stand there. A scheduler that lets trials go on together has fewer places.",
                )  # fmt: skip

    def by_shape(self, kind: str, structure: Structure, name: str, why: str) -> None:
        """That trials share a stack where their shapes are equal. `name`: of all to which that applies."""
        self.say(kind, f"{structure[0].__name__}: widths are not padded, so there is a stack for each: {why}.", name)

    def silent(self, name: str) -> bool:
        """Whether nothing was said of this class yet; asked once."""
        silent = name not in self._named
        self._named.add(name)
        return silent

    def few(self, text: str) -> None:
        """Few trials share a stack; the text says why."""
        self.say("stack", text, _FEW)

    @property
    def few_said(self) -> bool:
        return _FEW in self._said

    def halved(self, name: str, k: int, half: int, why: str) -> None:
        """Each time: there may be less and less room."""
        self._note(
            "slots", f"{name}: there is no room for {k} at once ({why}). From now on {half} at a time are trained, and the "
            f"others wait in host memory for their turn. A smaller batch_size, or Fused(slots={half}), needs less.",
        )  # fmt: skip

    def timed(self, name: str) -> None:
        """That a clock chose; once for all that it chooses."""
        self.say("choice", timed(name), "timed")

    def tight(self, runner: ModelRunner) -> None:
        """The device does not hold all."""
        name = type(runner.member).__name__
        self.say("slots", f"{name}: the device has no room for all trials at once. Who is not being trained waits in host memory.")


def timed(name: str) -> str:
    return (
        f"{name}: how trials are trained at once is chosen by timing it. Results depend on that by rounding, and another run may choose "
        'otherwise: Fused(strategy="vmap") fixes it.'
    )
