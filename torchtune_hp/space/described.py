"""A space as JSON: what the journal's header stores, what a resumed study is compared with, and the way back.

    {"space": node, "constraints": [value, ...]}        or        {"rows": [[[key, value], ...], ...]}

and the configs that are tried first as a list of values.

    node     {"group": [[key, node], ...]} | {"branches": [[name, node], ...]} | {"constant": value} | {word: [value, ...]}
             | {"mapped": [node, value, value]}
    value    a JSON scalar | [value, ...] | {"tuple": [...]} | {"dict": [[key, value], ...]} | {"float": "inf"}
             | {"callable": "module:qualname"} | {"source_sha256": hash} | {"repr": text}

Dicts are lists of pairs because their order is the order of the coordinates. The last two kinds of value name an object
without being able to bring it back.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import SpaceError
from ..spec import as_text, imported, of_callable, without_addresses
from .domains import FUNCTIONS, Domain


def of_spec(spec: Mapping[str, Any], constraints: Sequence[Callable[..., Any]]) -> dict[str, Any]:
    return {"space": _node(spec), "constraints": [_value(constraint) for constraint in constraints]}


def of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"rows": [[[key, _value(value)] for key, value in row.items()] for row in rows]}


def of_points(points: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Configs as values; `text_of_value` shows them."""
    return [_value(dict(point) if isinstance(point, Mapping) else point) for point in points]


def _node(spec: Any) -> dict[str, Any]:
    if isinstance(spec, Mapping):
        return {"group": [[key, _node(part)] for key, part in spec.items()]}
    if not isinstance(spec, Domain):
        return {"constant": _value(spec)}
    if spec.word == "mapped":
        inner, forward, inverse = spec.arguments
        return {"mapped": [_node(inner), _value(forward), _value(inverse)]}
    if spec.word == "choice" and isinstance(spec.arguments[0], Mapping):
        return {"branches": [[name, _node(branch)] for name, branch in spec.arguments[0].items()]}
    if spec.word in ("choice", "ordinal", "grid_search"):
        return {spec.word: [_value(value) for value in spec.arguments[0]]}
    return {spec.word: [_value(argument) for argument in spec.arguments]}


def _value(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) is list:
        return [_value(part) for part in value]
    if type(value) is tuple:
        return {"tuple": [_value(part) for part in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": [[key, _value(part)] for key, part in value.items()]}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():        # a NumPy or torch scalar
        return _value(value.item())
    if callable(value):
        return {tag: text for tag, text in of_callable(value).items() if tag != "name"}
    return {"repr": without_addresses(as_text(value))}


# The way back ------------------------------------------------------------------------------------------------------------


def spec_from(description: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    constraints = [_restored(f"constraints[{i}]", value) for i, value in enumerate(description["constraints"])]
    spec: dict[str, Any] = _spec("", description["space"])
    return spec, constraints


def rows_from(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{key: _restored(f"rows[{i}].{key}", value) for key, value in row} for i, row in enumerate(description["rows"])]


def points_from(description: Sequence[Any]) -> list[dict[str, Any]]:
    return [_restored(f"points[{i}]", value, "points") for i, value in enumerate(description)]


def _spec(name: str, node: Mapping[str, Any]) -> Any:
    ((word, content),) = node.items()
    if word == "group":
        return {key: _spec(f"{name}.{key}" if name else key, part) for key, part in content}
    if word == "constant":
        return _restored(name, content)
    if word == "branches":
        return Domain("choice", ({key: _spec(f"{name}.{key}", part) for key, part in content},))
    if word == "mapped":
        return Domain("mapped", (_spec(name, content[0]), _restored(name, content[1]), _restored(name, content[2])))
    if word not in FUNCTIONS:
        raise SpaceError(f"{name}: {word!r} is not a domain this version knows. Pass space= again.")
    values = [_restored(name, value) for value in content]
    return Domain(word, (values,) if word in ("choice", "ordinal", "grid_search") else tuple(values))


def check_passive(description: Any, name: str = "space") -> None:
    """Raises SpaceError if this, rebuilt, would call a function or import a module that `description` chose.

    For what somebody else may have written: of objects there may only be those of modules that are loaded already.
    """
    if isinstance(description, list):
        for part in description:
            check_passive(part, name)
    elif isinstance(description, Mapping):
        for word, content in description.items():
            if word in ("mapped", "sample_from") or (word == "constraints" and content):
                raise SpaceError(f"{name}: it holds {word}, functions that only you can vouch for. Pass space= again.")
            if word == "callable" and str(content).partition(":")[0] not in sys.modules:
                raise SpaceError(f"{name}: it holds {content}, of a module that is not loaded. Import it, or pass space= again.")
            check_passive(content, name)


def _restored(name: str, value: Any, argument: str = "space") -> Any:
    """The value again; SpaceError says which argument to pass where it cannot be."""
    if isinstance(value, list):
        return [_restored(name, part, argument) for part in value]
    if not isinstance(value, Mapping):
        return value
    ((tag, content),) = value.items()
    if tag == "tuple":
        return tuple(_restored(name, part, argument) for part in content)
    if tag == "dict":
        return {key: _restored(name, part, argument) for key, part in content}
    if tag == "float":
        return float(content)
    found = imported(content) if tag == "callable" else None
    if found is None:
        raise SpaceError(f"{name}: {text_of_value(value)} cannot be rebuilt from what was stored. Pass {argument}= again.")
    return found


def text_of_value(value: Any) -> str:
    """A described value, for a person."""
    if isinstance(value, list):
        return f"[{', '.join(map(text_of_value, value))}]"
    if not isinstance(value, Mapping):
        return repr(value)
    ((tag, content),) = value.items()
    if tag == "tuple":
        return f"({', '.join(map(text_of_value, content))}{',' if len(content) == 1 else ''})"
    if tag == "dict":
        return f"{{{', '.join(f'{key!r}: {text_of_value(part)}' for key, part in content)}}}"
    return f"a function with source {content[:8]}" if tag == "source_sha256" else str(content)
