"""Parts of a study as JSON, and back: an import path and the constructor's arguments. Nothing is pickled.

Law: a part keeps its constructor's arguments as attributes of the same names. So

    spec(ASHA(max_t=27)) == {"type": "torchtune_hp.schedulers.asha:ASHA", "args": {"max_t": 27, "grace_period": 1, ...}}

A function is named by "module:qualname" where it can be imported again, else by a hash of its source, a lambda's without the rest of
its lines: enough to see that it changed, not to bring it back. No description holds an address, so it is the same in every process.
`rebuild` says which argument it cannot bring back. It builds only classes of this package: a journal is data, and must not choose
what is imported.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

from .errors import ConfigurationError

_PACKAGE = __name__.partition(".")[0]


def spec(part: Any) -> Any:
    """JSON for a part, a plain value, or a sequence or mapping of them."""
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if isinstance(part, Mapping):
        return {str(key): spec(value) for key, value in part.items()}
    if isinstance(part, Sequence):
        return [spec(value) for value in part]
    if inspect.isroutine(part) or inspect.isclass(part):
        return of_callable(part)
    cls = type(part)
    try:
        parameters = inspect.signature(cls).parameters.values()
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return {"type": f"{cls.__module__}:{cls.__qualname__}", "args": {name: spec(getattr(part, name)) for name in names}}
    except (AttributeError, TypeError, ValueError):
        says = getattr(cls, "__repr__", None) is not object.__repr__       # object's own names an address, which changes
        return {"type": f"{cls.__module__}:{cls.__qualname__}"} | ({"repr": without_addresses(as_text(part))} if says else {})


def of_callable(function: Any) -> dict[str, str]:
    """Anything that can be called, the same in every process.

    {"callable": "module:qualname"} if importing gives it back, else {"source_sha256": ..., "name": ...} of a function or class,
    else {"repr": ...}.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module and name and module != "__main__" and "<" not in name and imported(f"{module}:{name}") is function:
        return {"callable": f"{module}:{name}"}
    code = getattr(function, "__code__", None)
    source = None
    if code is not None or inspect.isclass(function):
        try:
            source = _lambda(function, code) if code is not None and code.co_name == "<lambda>" else inspect.getsource(function).strip()
        except (OSError, TypeError, SyntaxError):       # typed at a prompt: what it was compiled to, instead
            source = None if code is None else repr(_compiled(code))
    if source is None:
        return {"repr": without_addresses(repr(function))}
    return {"source_sha256": hashlib.sha256(source.encode()).hexdigest(), "name": name}


def imported(path: str) -> Any:
    """What "module:qualname" names; None if nothing."""
    module, _, name = path.partition(":")
    try:
        here: Any = importlib.import_module(module)
        for part in name.split("."):
            here = getattr(here, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return here


def as_text(value: Any) -> str:
    """`repr`, with the items of sets in the order of their own: theirs is another in each process."""
    if type(value) in (set, frozenset) and value:
        items = f"{{{', '.join(sorted(map(as_text, value), key=without_addresses))}}}"
        return items if type(value) is set else f"frozenset({items})"
    if type(value) is tuple:
        return f"({', '.join(map(as_text, value))}{',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return f"{{{', '.join(f'{as_text(key)}: {as_text(part)}' for key, part in value.items())}}}"
    return repr(value)


def without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _lambda(function: Any, code: CodeType) -> str:
    """A lambda's own text. OSError or SyntaxError if it cannot be found, or not told from others.

    The instructions of its body lie within the body's text, and in no smaller lambda's.
    """
    text = "".join(inspect.findsource(function)[0])
    where = [((line, column), (end, last)) for line, end, column, last in code.co_positions() if None not in (line, end, column, last)]
    where = [(start, end) for start, end in where if start < end]       # a function's first instruction lies nowhere
    if not where:
        raise OSError("compiled without columns")
    first, last = min(start for start, _ in where), max(end for _, end in where)
    around = [node for node in _lambdas(text).get(code.co_firstlineno, ()) if _start(node.body) <= first and last <= _end(node.body)]
    found = ast.get_source_segment(text, max(around, key=_start)) if around else None
    if found is None:
        raise OSError("the file is another by now")
    return found


@functools.lru_cache(maxsize=4)         # a space may hold many of one file
def _lambdas(text: str) -> dict[int, list[ast.Lambda]]:
    """The lambdas of a file, by the line they begin in."""
    found: dict[int, list[ast.Lambda]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Lambda):
            found.setdefault(node.lineno, []).append(node)
    return found


def _start(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or 0, node.end_col_offset or 0


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """What code does, nested code included: neither where it lies nor the order of a set, which differ between processes."""
    constants = [
        _compiled(value) if isinstance(value, CodeType) else sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
        for value in code.co_consts
    ]
    return code.co_code, constants, code.co_names


def rebuild(described: Any, argument: str) -> Any:
    """The part again. ConfigurationError names `argument`, the one to pass where it cannot be rebuilt."""
    if isinstance(described, list):
        return [rebuild(value, argument) for value in described]
    if not isinstance(described, dict):
        return described
    if "source_sha256" in described or "callable" in described or "repr" in described:
        name = described.get("name") or described.get("callable") or described.get("type") or described["repr"]
        raise ConfigurationError(f"{argument}: {name} cannot be brought back from the journal; pass {argument}= again.")
    if "type" not in described:
        return {key: rebuild(value, argument) for key, value in described.items()}
    if str(described["type"]).partition(":")[0].partition(".")[0] != _PACKAGE or "args" not in described:
        raise ConfigurationError(f"{argument}: {described['type']} is not a part of {_PACKAGE}; pass {argument}= again.")
    cls = imported(str(described["type"]))
    if not inspect.isclass(cls):
        which = "is not in this version" if cls is None else "is not a class"
        raise ConfigurationError(f"{argument}: {described['type']} {which}; pass {argument}= again.")
    arguments = {name: rebuild(value, argument) for name, value in described["args"].items()}
    try:
        built: Any = cls(**arguments)
    except TypeError as error:
        raise ConfigurationError(f"{argument}: {brief(described)} is none of this version ({error}); pass {argument}= again.") from error
    return built


def difference(name: str, before: Any, after: Any) -> list[str]:
    """Lines such as "scheduler.max_t: 27 -> 81"; none if the two are equal.

    An argument that a part of this package did not have yet when `before` was written counts as at its default.
    """
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict) and before.get("type") == after.get("type"):
        lines = []
        if "type" in before and "args" in before and str(before["type"]).partition(".")[0] == _PACKAGE:
            before = before | {"args": _defaults(str(before["type"])) | before["args"]}
        for key in dict.fromkeys((*before, *after)):
            label = name if key == "args" else f"{name}.{key}"
            lines += difference(label, before.get(key), after.get(key))
        return lines
    return [f"{name}: {brief(before)} -> {brief(after)}"]


def _defaults(path: str) -> dict[str, Any]:
    parameters = inspect.signature(imported(path)).parameters.values()
    return {p.name: spec(p.default) for p in parameters if p.default is not p.empty}


def brief(described: Any) -> str:
    """A described part in a few words: ASHA(max_t=27, ...)."""
    if isinstance(described, dict) and "type" in described:
        args = ", ".join(f"{key}={brief(value)}" for key, value in described.get("args", {}).items() if value is not None)
        return f"{described['type'].rpartition(':')[2].rpartition('.')[2]}({args})"
    if isinstance(described, dict) and "callable" in described:
        return str(described["callable"])
    if isinstance(described, dict) and "repr" in described:
        return str(described["repr"])
    if isinstance(described, dict) and "source_sha256" in described:
        return f"{described.get('name', 'function')} (source {described['source_sha256'][:8]})"
    return repr(described)
