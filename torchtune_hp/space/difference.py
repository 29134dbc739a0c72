"""What differs between two described spaces, in lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .described import text_of_value


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line a parameter: "lr: loguniform(0.0001, 0.1) -> loguniform(0.001, 0.1)". Empty: the same space.

    `before` and `after` are what `Space.describe` gave, also after a trip through JSON.
    """
    old, new = _lines(before), _lines(after)
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            found.append(f"{name}: removed, was {old[name]}")
        elif name not in old:
            found.append(f"{name}: added, {new[name]}")
        elif old[name] != new[name]:
            found.append(f"{name}: {old[name]} -> {new[name]}")
    if not found and list(old) != list(new):        # the order is the order of the coordinates
        found.append(f"order of parameters: {', '.join(old)} -> {', '.join(new)}")
    return found


def _lines(description: Mapping[str, Any]) -> dict[str, str]:
    """Each parameter's name and what it says, in order."""
    if "rows" in description:
        rows = description["rows"]
        return {f"rows[{i}]": f"{{{', '.join(f'{key}: {text_of_value(value)}' for key, value in row)}}}" for i, row in enumerate(rows)}
    lines: dict[str, str] = {}
    _collect("", description["space"], lines)
    for i, constraint in enumerate(description["constraints"]):
        lines[f"constraints[{i}]"] = text_of_value(constraint)
    return lines


def _collect(name: str, node: Mapping[str, Any], lines: dict[str, str]) -> None:
    ((word, content),) = node.items()
    if word == "branches":
        lines[name] = f"choice of branches {', '.join(key for key, _ in content)}"
    elif word == "mapped":
        inner: dict[str, str] = {}
        _collect(name, content[0], inner)
        body = ", ".join(text if key == name else f"{key}: {text}" for key, text in inner.items())
        lines[name] = f"mapped({body}; {text_of_value(content[1])}, {text_of_value(content[2])})"
        return
    elif word == "constant":
        lines[name] = text_of_value(content)
    elif word != "group":
        listed = word in ("choice", "ordinal", "grid_search")
        lines[name] = f"{word}({text_of_value(content) if listed else ', '.join(map(text_of_value, content))})"
    elif not content:
        lines[name or "space"] = "{}"
    if word in ("group", "branches"):
        for key, part in content:
            _collect(f"{name}.{key}" if name else key, part, lines)
