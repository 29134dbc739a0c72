"""From a spec to its tree, its dimensions and its sample_from parameters, checking every name and value on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SpaceError
from ..trial import Dim
from .columns import Column, Items
from .domains import Domain
from .laws import column_of, searchable_only_at_the_top
from .sampled import Sampled
from .tree import Branches, Constant, Group, Leaf, Mapped, Node

DIGITS = 12
MAPPED_DIGITS = 9
"""Fewer inside `mapped`: 1 - (1 - 0.0001) is 0.0001 to 12 digits only, and the round trip must be exact."""

Parent = tuple[str, int] | None
Guards = tuple[tuple[tuple[str, ...], str], ...]


class Builder:
    """Collects what the tree needs while it is built; `root` is the tree."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.dims: list[Dim] = []
        self.columns: list[Column] = []         # one for each of them
        self.sampled: list[Sampled] = []
        self.mapped: list[Mapped] = []
        self.lists: list[Constant] = []         # constants that look like the values of a grid
        self._digits = DIGITS
        self.root = self._group("", spec, (), None, ())

    def _group(self, name: str, spec: Mapping[str, Any], path: tuple[str, ...], parent: Parent, guards: Guards) -> Group:
        children: list[tuple[str, Node]] = []
        computed = set()
        for key, value in spec.items():
            _legal_key(name, key)
            full = f"{name}.{key}" if name else key
            if isinstance(value, Domain) and value.word == "sample_from":
                computed.add(key)
                self._sample(full, value, (*path, key), guards)
            else:
                children.append((key, self._node(full, value, (*path, key), parent, guards)))
        return Group(name, tuple(children), frozenset(computed))

    def _node(self, name: str, value: Any, path: tuple[str, ...], parent: Parent, guards: Guards) -> Node:
        if isinstance(value, Domain):
            if value.word == "mapped":
                return self._map(name, value, path, parent)
            if value.word == "choice" and isinstance(value.arguments[0], Mapping):
                return self._branches(name, value.arguments[0], path, parent, guards)
            return Leaf(*self._dim(column_of(name, value, self._digits), parent, value.word))
        if isinstance(value, Mapping):
            return self._group(name, value, path, parent, guards)
        searchable_only_at_the_top(name, value)
        constant = Constant(name, value)
        if isinstance(value, list) and len(value) > 1:
            self.lists.append(constant)
        return constant

    def _dim(self, column: Column, parent: Parent, word: str) -> tuple[Column, int]:
        self.columns.append(column)
        self.dims.append(Dim(column.name, column.kind, column.levels, "log" in word, parent, word == "grid_search"))
        return column, len(self.dims) - 1

    def _branches(self, name: str, branches: Mapping[Any, Any], path: tuple[str, ...], parent: Parent, guards: Guards) -> Branches:
        if not branches:
            raise SpaceError(f"{name}: choice needs at least one branch, but got {{}}. List the branches, or leave the parameter out.")
        for key, branch in branches.items():
            _legal_key(name, key)
            if not isinstance(branch, Mapping):
                raise SpaceError(
                    f"{name}.{key}: a branch is a dict of its hyperparameters, but got {branch!r}. Write {{}} for a branch without any, "
                    f"or, to choose among values, choice({list(branches)!r})."
                )
            if "name" in branch:
                raise SpaceError(f'{name}.{key}: the key "name" of a branch holds the branch\'s own name. Rename the parameter.')
        items = tuple(branches)
        column = Items(name, f"choice of branches {list(items)}", "category", items, {item: k for k, item in enumerate(items)})
        _, at = self._dim(column, parent, "choice")
        groups = tuple(
            self._branch(f"{name}.{key}", key, branch, path, (name, k), (*guards, (path, key)))
            for k, (key, branch) in enumerate(branches.items())
        )
        return Branches(column, at, groups)

    def _branch(self, name: str, key: str, spec: Mapping[str, Any], path: tuple[str, ...], parent: Parent, guards: Guards) -> Group:
        group = self._group(name, spec, path, parent, guards)
        return Group(name, (("name", Constant(f"{name}.name", key)), *group.children), group.computed)

    def _sample(self, name: str, domain: Domain, path: tuple[str, ...], guards: Guards) -> None:
        (function,) = domain.arguments
        if not callable(function):
            raise SpaceError(f"{name}: sample_from needs a function, but got {function!r}. Write sample_from(lambda config: ...).")
        self.sampled.append(Sampled(name, path, guards, function))

    def _map(self, name: str, domain: Domain, path: tuple[str, ...], parent: Parent) -> Mapped:
        inner, forward, inverse = domain.arguments
        for word, function in (("forward", forward), ("inverse", inverse)):
            if not callable(function):
                raise SpaceError(f"{name}: `{word}` of mapped must be a function, but got {function!r}. Write a function of one argument.")
        if not isinstance(inner, (Domain, Mapping)) or (isinstance(inner, Mapping) and not inner):
            raise SpaceError(f"{name}: mapped needs a domain or a dict of domains, but got {inner!r}. Write mapped(uniform(0, 1), ...).")
        before, self._digits = len(self.sampled), MAPPED_DIGITS
        first = len(self.dims)
        if isinstance(inner, Domain) and inner.word == "sample_from":
            self._sample(name, inner, path, ())
            node: Node = Constant(name, None)
        else:
            node = self._node(name, inner, path, parent, ())
        self._digits = DIGITS
        if len(self.sampled) > before:
            raise SpaceError(f"{name}: mapped cannot hold sample_from, which has no inverse. Call the function in sample_from itself.")
        if len(self.dims) == first:
            raise SpaceError(f"{name}: mapped holds nothing to search, but got {inner!r}. Write the value itself: a constant.")
        mapped = Mapped(name, node, forward, inverse)
        self.mapped.append(mapped)
        return mapped


def _legal_key(name: str, key: Any) -> None:
    where = name or "space"
    if not isinstance(key, str):
        raise SpaceError(f"{where}: names must be strings, but got {key!r} ({type(key).__name__}). Write {str(key)!r}.")
    if not key:
        raise SpaceError(f"{where}: names must not be empty, but got ''. Give the parameter a name.")
    if "." in key:
        raise SpaceError(f'{where}: names must not hold a ".", which joins nested names, but got {key!r}. Nest dicts, or write "_".')
