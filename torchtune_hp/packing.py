"""A trial's floats in one object: its x, and its config where that holds floats alone.

In a study of a million trials hundreds of thousands rest. What they are made of has left the caches when one of them is named
again or let go, so each object costs a miss then. A tuple, a dict and their floats are many objects; packed they are one.

Laws:
1. What is read is what was given, bit for bit and in its order. A packed config is read as a new dict each time.
2. A config is packed if it is a dict of floats under strings. Any other is kept, and read, as the object it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from struct import Struct, pack as pack_floats, unpack as unpack_floats
from typing import Any, TypeVar

C = TypeVar("C")
_FLOAT = {float}
_STRING = {str}


class Layout:
    """How the floats of trials lie: `d` coordinates of x, then a config's values under `names`; float64, little-endian."""

    __slots__ = ("_at", "_values", "d", "names", "pack", "size", "x")

    def __init__(self, d: int, names: tuple[str, ...]) -> None:
        self.d = d
        self.names = names
        form = Struct(f"<{d + len(names)}d")
        self.size = form.size
        self.pack = form.pack
        self.x = Struct(f"<{d}d").unpack_from
        self._values = Struct(f"<{len(names)}d").unpack_from
        self._at = 8 * d

    def config(self, floats: bytes) -> dict[str, float]:
        return dict(zip(self.names, self._values(floats, self._at)))


def layout(d: int, names: tuple[Any, ...]) -> Layout | None:
    """The one Layout of these, in this process; None if the names are not all strings, for one of another type may equal a string."""
    return _layout(d, names) if {*map(type, names)} <= _STRING else None


_layout = cache(Layout)


def packed(cls: type[C]) -> type[C]:
    """Packs the fields `x` and `config` of Trial.

    The slot of `x` then holds the bytes, that of `config` their Layout, or else the config that is not packed. An instance can be made
    of these as well: `held` says what they are.
    """
    made: Any = cls
    init, get_bits, get_form = made.__init__, made.x.__get__, made.config.__get__

    def pack(self: Any, id: int, x: Any, config: Any, seed: int, tag: int = 0, parent: int | None = None) -> None:
        if type(config) is not Layout:
            form = layout(len(x), tuple(config)) if type(config) is dict and {*map(type, config.values())} == _FLOAT else None
            if form is None:
                x = pack_floats(f"<{len(x)}d", *x)
            else:
                x, config = form.pack(*x, *config.values()), form
        init(self, id, x, config, seed, tag, parent)

    def x(self: Any) -> Any:
        bits, form = get_bits(self), get_form(self)
        return form.x(bits) if type(form) is Layout else unpack_floats(f"<{len(bits) // 8}d", bits)

    def config(self: Any) -> Any:
        form = get_form(self)
        return form.config(get_bits(self)) if type(form) is Layout else form

    def reduce(self: Any) -> Any:
        return cls, tuple(getattr(self, name) for name in made.__match_args__)

    pack.__qualname__ = init.__qualname__
    made.__init__, made.__reduce__, made.x, made.config = pack, reduce, property(x), property(config)
    made._held = lambda self: (get_bits(self), get_form(self))
    return cls


def held(trial: Any) -> tuple[bytes, Layout | Mapping[str, Any]]:
    """What a trial keeps: the floats of its x and its config, and their layout; or those of its x, and its config."""
    return trial._held()  # type: ignore[no-any-return]
