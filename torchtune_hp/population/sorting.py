"""Which trials may share a stack: the kind of each, and how they are sorted by it.

What a kind is, is said in kinds.py. A trial keeps its own until it may be another: its hooks were seen to read more, or may have
changed something (`on_iteration_end`), or its lazy layers saw their first batch. Then it is looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from weakref import WeakSet

from torch.nn.parameter import is_lazy

from ..training.alone import ModelRunner
from ..training.stream import Stream
from .kinds import Kind, Structure, any_form, attributes_of, structure_of
from .reads import Read, Reads


class Sorting:
    """`near`: brings a runner to where it can be looked at. `by_shape`: whether the widths of a structure are not padded; `by_form`:
    whether its activations split."""

    def __init__(
        self, near: Callable[[ModelRunner], None], by_shape: Callable[[Structure], bool], by_form: Callable[[Structure], bool]
    ) -> None:
        self.reads: dict[Structure, Reads] = {}             # what hooks were seen to read
        self.attributes: dict[ModelRunner, dict[Read, Hashable]] = {}
        self._near = near
        self._by_shape = by_shape
        self._by_form = by_form
        self._kinds: dict[ModelRunner, Kind] = {}
        self._unshaped: set[ModelRunner] = set()            # whose models have lazy layers that saw no batch yet
        self._uneven: WeakSet[ModelRunner] = WeakSet()      # whose optimizers hold what no row does

    def by_kind(self, runners: Sequence[ModelRunner]) -> dict[tuple[Kind, Hashable], list[ModelRunner]]:
        """By kind, and by where they stand in the data and how far they go: who does otherwise waits until the group has taken the
        others on."""
        sorts: dict[tuple[Kind, Hashable], list[ModelRunner]] = {}
        for runner in runners:
            sorts.setdefault((self.kind(runner), stretch(runner)), []).append(runner)
        return sorts

    def kind(self, runner: ModelRunner) -> Kind:
        known = self._kinds.get(runner)
        if known is None:
            self._near(runner)
            shape = structure_of(runner)
            if self._by_form(shape):
                shape = structure_of(runner, any_form=False)
            if self._by_shape(shape):
                formed, shape = any_form(shape), structure_of(runner, False, any_form(shape))
                if formed and self._by_form(shape):
                    shape = structure_of(runner, False, False)
            if any(map(is_lazy, runner.member.model.parameters())):
                self._unshaped.add(runner)
            if runner in self._uneven:
                shape = (*shape[:-1], (*shape[-1], ("what the optimizer holds", "of different steps")))
            if shape not in self.reads:
                self.reads[shape] = Reads({read for other, reads in self.reads.items() if other[0] is shape[0] for read in reads.lifted})
            known = (shape, self.reads[shape].values(runner.member))
            self._kinds[runner], self.attributes[runner] = known, attributes_of(runner.member, any_form(shape))
        return known

    def holds(self, runners: Sequence[ModelRunner], kind: Kind) -> bool:
        """Whether these, of one kind, are of this one still."""
        return all(runner in self._kinds for runner in runners) and self._kinds[runners[0]] == kind

    def structures(self) -> set[Structure]:
        return {kind[0] for kind in self._kinds.values()}

    def forget(self, runner: ModelRunner) -> None:
        self._kinds.pop(runner, None)
        self.attributes.pop(runner, None)
        self._unshaped.discard(runner)

    def forget_all(self, structure: Structure) -> None:
        for runner, kind in list(self._kinds.items()):
            if kind[0] == structure:
                self.forget(runner)

    def uneven(self, runner: ModelRunner) -> bool:
        """Notes that it cannot stay in a row -> whether nothing else tells it apart from those who can: from now on, this does."""
        before = self._kinds.get(runner)
        self.forget(runner)
        if self.kind(runner) != before:
            return False
        self._uneven.add(runner)
        self.forget(runner)
        return True

    def trained(self, runner: ModelRunner, writes: bool = False) -> bool:
        """Whether its kind is another now: `on_iteration_end` may change what a stack depends on, and lazy layers find their shapes.

        `writes`: other hooks of its own may have changed it too.
        """
        if not writes and not runner.hooked and runner not in self._unshaped:
            return False
        before = self._kinds.get(runner)
        self.forget(runner)
        return bool(self.kind(runner) != before)

    def renamed(self, structure: Structure, trained_as: Mapping[ModelRunner, Hashable]) -> Iterator[tuple[Kind, Kind]]:
        """More was read than before, so kinds have other names: of each trial of this structure the old one, and the new.

        `trained_as`: of some, what was read of them when it was.
        """
        for runner, kind in list(self._kinds.items()):
            if kind[0] == structure:
                self._kinds[runner] = (structure, trained_as.get(runner) or self.reads[structure].values(runner.member))
                yield kind, self._kinds[runner]


def stretch(runner: ModelRunner) -> Hashable:
    """Of the data, what the next iteration goes through: those that agree in it make the same updates."""
    return runner.feed.phase, runner.iteration, runner.feed.offset if runner.iteration == "epoch" else None


def streamed(runner: ModelRunner) -> bool:
    """Whether its batches come from a DataLoader."""
    return isinstance(runner.data.train, Stream)
