"""A search space from YAML text.

    lr: {loguniform: [1e-4, 1e-1]}                  a domain: one key, the word; a list of its arguments
    dropout: {uniform: {lower: 0, upper: 0.5}}      or a mapping of them
    width: {choice: [16, 32, 64]}                   choice, ordinal, grid_search: the list is the values
    model: {choice: {mlp: {width: {randint: [8, 65]}}, cnn: {filters: {randint: [4, 33]}}}}
    optimizer: {name: adamw, wd: {loguniform: [1e-6, 1e-1]}}        a nested dict
    epochs: 27                                      a constant
    milestones: {constant: [10, 20]}                a constant, said outright

A mapping of one key and a list is always read as a domain, so that a misspelt word is an error and not a constant. What
YAML 1.1 reads as a string though it is a number (1e-5, without a point) is read as the number.
"""

from __future__ import annotations

import difflib
import inspect
import re
from typing import Any

import yaml

from ..errors import SpaceError
from .domains import FUNCTIONS, Domain

_LISTED = ("choice", "ordinal", "grid_search")
_ONLY_PYTHON = ("sample_from", "mapped")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def read(text: str) -> dict[str, Any]:
    """The spec that the text writes down."""
    if not isinstance(text, str):
        raise SpaceError(f"yaml: the text of a YAML file is expected, but got {type(text).__name__}. Read the file first.")
    try:
        _no_key_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpaceError(f"yaml: the text is not valid YAML: {error}") from None
    if not isinstance(found, dict):
        hint = " This looks like a path: read the file first." if isinstance(found, str) and "\n" not in found else ""
        raise SpaceError(f"yaml: a mapping is expected, but got {found!r}.{hint} Write lr: {{loguniform: [1e-4, 1e-1]}}.")
    return {key: _part(str(key), value) for key, value in found.items()}


def _no_key_twice(node: Any) -> None:
    """safe_load keeps the last of two equal keys in silence."""
    children = []
    if node is not None and node.id == "mapping":
        keys = [key.value for key, _ in node.value if key.id == "scalar"]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise SpaceError(f"yaml: {twice[0]}: the key stands twice in one mapping. Leave one of them out.")
        children = [value for _, value in node.value]
    elif node is not None and node.id == "sequence":
        children = node.value
    for child in children:
        _no_key_twice(child)


def _part(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return _number(value)
    if len(value) == 1:
        ((word, content),) = value.items()
        if word == "constant":
            return _number(content)
        if word in FUNCTIONS:
            return _domain(name, word, content)
        if isinstance(content, list) or _meant(word):
            raise _unknown(name, word)
    misplaced = [key for key in value if key in FUNCTIONS]
    if misplaced:
        raise SpaceError(f"{name}: a domain is a mapping of one key, but {misplaced[0]!r} is not alone. Give it a mapping of its own.")
    return {key: _part(f"{name}.{key}", part) for key, part in value.items()}


def _domain(name: str, word: str, content: Any) -> Domain:
    if word in _ONLY_PYTHON:
        raise SpaceError(f"{name}: {word} holds functions, which YAML cannot write. Write this space in Python.")
    if word == "choice" and isinstance(content, dict):
        return FUNCTIONS[word]({key: _part(f"{name}.{key}", branch) for key, branch in content.items()})
    if word in _LISTED:
        return FUNCTIONS[word](_number(content))
    arguments = _number(content)
    try:
        if isinstance(arguments, dict):
            return FUNCTIONS[word](**arguments)
        return FUNCTIONS[word](*(arguments if isinstance(arguments, list) else [arguments]))
    except TypeError:
        signature = ", ".join(inspect.signature(FUNCTIONS[word]).parameters)
        raise SpaceError(f"{name}: {word} takes ({signature}), but got {content!r}. Write {word}: [{signature}].") from None


def _meant(word: Any) -> str | None:
    plain = re.sub(r"[^a-z]", "", str(word).lower())
    if plain in FUNCTIONS:
        return plain
    close = difflib.get_close_matches(plain, FUNCTIONS, 1, 0.8)
    return close[0] if close else None


def _unknown(name: str, word: Any) -> SpaceError:
    meant = _meant(word)
    hint = f"Did you mean {meant!r}?" if meant else f"There are {', '.join(key for key in FUNCTIONS if key not in _ONLY_PYTHON)}."
    return SpaceError(f"{name}: {word!r} is not a domain. {hint} A constant list is written {{constant: [...]}}.")


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(part) for part in value]
    if isinstance(value, dict):
        return {key: _number(part) for key, part in value.items()}
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
