"""How values become the text of a journal and come back: JSON in Python's dialect, NaN and infinities included, and any str."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from .spec import as_text


def to_json(value: Any) -> str:
    """Any value as JSON. What JSON has no word for becomes `{"__repr__": ...}`; numbers of other libraries become numbers."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):     # an odd key, a cycle
        return _encode(_tamed(value, ()))


from_json: Callable[[str], Any] = json.loads


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return {"__repr__": as_text(value)}


def _tamed(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        if id(value) in above:
            return {"__repr__": "..."}
        above = (*above, id(value))
        if isinstance(value, Mapping):
            return {key if isinstance(key, str) else repr(key): _tamed(item, above) for key, item in value.items()}
        return [_tamed(item, above) for item in value]
    return value


def _encoder() -> Callable[[Any], str]:
    """`JSONEncoder.encode` builds its C encoder anew for every value; one that is built once halves the cost of a report."""
    encoder = json.JSONEncoder(separators=(",", ":"), default=_plain, check_circular=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    built = make(None, _plain, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
    return lambda value: "".join(built(value, 0))


_encode = _encoder()


def to_text(text: str) -> str | bytes:
    """A lone surrogate (an undecodable file name in a traceback) is no UTF-8: such a text is stored as bytes."""
    if not text.isascii():
        stored = text.encode("utf-8", "surrogatepass")
        if stored.decode("utf-8", "replace") != text:
            return stored
    return text


def text_of(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")
