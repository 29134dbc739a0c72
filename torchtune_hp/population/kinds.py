"""What members of a stack agree in, by the names under which a person knows it.

    structure   class, data, words such as batch_size, and the signature without attributes that may never be read
    kind        a structure, and what the hooks were seen to read (reads.py): members of a kind share a stack
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence
from types import CodeType
from typing import Any

from ..training.alone import ModelRunner
from .activations import PLACE, may_join, places
from .census import DATA
from .opened import opens
from .padding import UpTo, rounded
from .reads import Read, shown
from .signature import attributes, difference, structure
from .values import frozen

WORDS = ("batch_size", "accumulate", "precision", "lr_step")
"""Words of a ModelTrainable in which members of a stack agree."""

Values = tuple[tuple[Read, Hashable], ...]
Structure = Any
Kind = Any
"""(structure, values of what was read)"""


def structure_of(runner: ModelRunner, padded: bool = True, any_form: bool = True) -> Structure:
    """`padded`: in the place of its widths there are those that may share a stack with them. `any_form`: and likewise of activations."""
    member = runner.member
    words, batch = tuple(getattr(member, word) for word in WORDS), member.batch_size or runner.data.batch_size
    sizes = rounded(member.model, member.optimizer, member.device.type, batch) if padded else {}
    standing = dict.fromkeys(places(member.model), PLACE) if any_form else {}
    if standing and not may_join(member.model, member.device.type, batch, sizes):
        standing = {}
    return type(member), runner.data.tensors, words, structure(member.model, member.optimizer, sizes, standing)


def named(shape: Structure) -> str:
    """The name of a structure, in other processes too. Those that differ in what is known by its identity alone may share one."""
    cls, _, words, rest = shape
    return f"{cls.__qualname__} {hashlib.sha256(_text((words, rest)).encode()).hexdigest()[:16]}"


def _text(part: Any) -> str:
    """As `repr`, but for what differs between processes: addresses, the order of sets, where code lies, what a script is called."""
    if isinstance(part, type):
        return part.__qualname__
    if isinstance(part, (tuple, frozenset)):
        texts = map(_text, part)
        return f"{type(part).__name__}({', '.join(texts if isinstance(part, tuple) else sorted(texts))})"
    if isinstance(part, CodeType):
        return f"code {part.co_qualname} {part.co_code.hex()} {part.co_names} {_text(part.co_consts)}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))


def any_width(shape: Any) -> Any:
    """A structure without the sizes of what is padded in it: the same for all widths."""
    if isinstance(shape, UpTo):
        return UpTo
    return tuple(map(any_width, shape)) if isinstance(shape, tuple) else shape


def is_padded(shape: Structure) -> bool:
    """Whether it stands for more than one width."""
    return bool(any_width(shape) != shape)


def any_form(shape: Structure) -> bool:
    """Whether it stands for more than one activation."""
    return any(value == PLACE for _, value in shape[3])


def attributes_of(member: Any, any_form: bool = True) -> dict[Read, Hashable]:
    """What makes a difference only if it is read, besides plain values of self: attributes of modules, and parts of dicts and objects."""
    free = attributes(member.model, places(member.model) if any_form else {})
    found: dict[Read, Hashable] = {("model", *place): value for place, value in free.items()}
    own = {name: value for name, value in vars(member).items() if name not in _WORDS_OF_ITS_OWN and type(value) not in _PLAIN}
    return found | {("self", name): frozen(value) for name, value in own.items() if type(value) is dict or opens(value)}


_WORDS_OF_ITS_OWN = frozenset({"model", "optimizer", "lr_scheduler", "_here"})
_PLAIN = frozenset({type(None), bool, int, float, str, list, tuple})


def differing(each: Sequence[dict[Read, Hashable]]) -> set[Read]:
    """The attributes that are not the same for all."""
    first, *others = each
    names = set(first).union(*others)
    return {name for name in names if any(other.get(name, _ABSENT) != first.get(name, _ABSENT) for other in others)}


def described(kind: Kind) -> dict[str, Hashable]:
    """name -> value, for all that members of the kind agree in."""
    (cls, data, words, shape), values = kind
    return {"the class": cls, DATA: data, **dict(_worded(words)), **dict(shape), **dict(_read(values))}


def begins(kind: Kind, members: str, number: int, first: Kind | None) -> str:
    """What is said of a stack that is the number-th of its class. `members`: how many of what. `first`: stack 1's kind, if another."""
    (cls, _, words, shape), values = kind
    text = f"{cls.__name__}: stack {number} begins with {members}"
    if first is None:
        return f"{text}."
    (_, _, its_words, its_shape), its_values = first
    pairs = (_worded(its_words), _worded(words)), (its_shape, shape), (_read(its_values), _read(values))
    found = next(filter(None, (difference(one, other) for one, other in pairs)), "its data")
    return f"{text}; it differs from stack 1 in {found}."


_ABSENT = object()


def _worded(words: tuple[Hashable, ...]) -> tuple[tuple[str, Hashable], ...]:
    return tuple(zip(WORDS, words))


def _read(values: Values) -> tuple[tuple[str, Hashable], ...]:
    return tuple((shown(read), value) for read, value in values)
