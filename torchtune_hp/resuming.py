"""From a journal's header, and what is passed along, to the arguments of the Tuner that goes on with the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import ConfigurationError, StudyChangedError
from .journal import Journal
from .space import Space, difference as space_difference
from .space.described import of_points, points_from, text_of_value
from .spec import difference, rebuild, spec
from .stopping import stop_rule
from .warm_start import check_paths, rebuilt

SESSION = ("executor", "observers", "verbose", "checkpoint_every")
"""Arguments that belong to a session: they may differ without a word."""

_FIXED: dict[str, Callable[[Any], Any]] = {
    "space": lambda space: Space.of(space).describe(),
    "metric": lambda metric: [metric] if isinstance(metric, str) else list(metric),
    "mode": lambda mode: [mode] if isinstance(mode, str) else list(mode),
    "outcome_constraints": lambda texts: [texts] if isinstance(texts, str) else list(texts),
    "searcher": spec,
    "scheduler": spec,
    "stop": lambda stop: spec(stop_rule(stop)),
    "points": of_points,
    "keep": int,
    "seed": int,
    "seeds": int,
    "folds": lambda folds: folds,
    "look_every": lambda look: look,
}
"""Arguments that are fixed for a study's life, each with how the header describes it."""

_LATER = {"seeds": 1, "folds": None}
"""What headers that were made before there was such a thing would say."""

ALLOWED = ("seed", "space", "searcher", "trainable")
"""What may be changed on purpose: recorded trials stand in for what these would have given."""


def resumed_arguments(journal: Journal, given: Mapping[str, Any], allow: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of a Tuner for the study in `journal`: what was given, what the header holds, and what the last turn was bound by.

    Raises:
        StudyChangedError: something was given that differs from the header, and is not in `allow`.
        ConfigurationError: a part cannot be rebuilt and was not given, or a limit makes no sense.
    """
    header = journal.header
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    unknown = [name for name in allow if name not in ALLOWED]
    if "points" in unknown:
        raise ConfigurationError(
            "allow: points come first, and this study has begun. To try others, start another study with points=[...]; "
            f"it may learn from this one, with searcher=hp.GPSearch() and warm_start=[{str(journal.folder)!r}]."
        )
    if unknown:
        raise ConfigurationError(
            f"allow: {', '.join(ALLOWED)} may be changed on purpose, but got {unknown}. What else a study is made of decided its past "
            "turns, which would not come out the same: start another study."
        )
    arguments: dict[str, Any] = {"trainable": None, "storage": "runs", "name": None, "resume": "never", "verbose": 1, "observers": ()}
    arguments |= {"executor": "auto", "checkpoint_every": header["checkpoint_every"]}
    arguments |= {name: given[name] for name in ("trainable", *SESSION) if name in given}
    changed: dict[str, list[str]] = {}
    for name, describe in _FIXED.items():
        recorded = header[name] if name in header else _LATER[name]
        if given.get(name) is None or (name in ("points", "outcome_constraints") and not given[name]):
            arguments[name] = brought_back(name, recorded)
            continue
        arguments[name] = given[name]
        try:
            described = describe(given[name])
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{name}: {error}") from None
        if name == "mode" and len(described) == 1:      # one for all metrics
            described = described * len(header["mode"])
        if described != recorded and name not in allow:
            changed[name] = _difference(name, recorded, described)
    recorded = header.get("warm_start", [])         # a study made before there was such a thing has none
    arguments["warm_start"] = rebuilt(recorded)
    if given.get("warm_start"):
        check_paths(given["warm_start"])
        changed["warm_start"] = difference("warm_start", [one["name"] for one in recorded], [str(path) for path in given["warm_start"]])
    if "space" in allow:
        _check_space(journal, Space.of(arguments["space"]), learns=bool(recorded))
    changed["trainable"] = _other_trainable(header, given, allow)
    if lines := [line for each in changed.values() for line in each]:
        on_purpose = tuple(name for name, each in changed.items() if each and name in ALLOWED)
        call = f"hp.Tuner.resume({str(journal.folder)!r}, ..., allow={(*allow, *on_purpose)!r})"
        way = f" On purpose, {' and '.join(on_purpose)} may be changed: {call}." if on_purpose else ""
        raise StudyChangedError(
            f"the study {header['name']!r} was made with other settings than are passed now:\n  "
            + "\n  ".join(lines)
            + f"\nLeave them as they were, or start another study.{way}"
        )
    if "executor" not in given:
        arguments["executor"] = rebuild(header["executor"], "executor")
    return arguments | _limits(journal, given)


def brought_back(name: str, recorded: Any) -> Any:
    """An argument as the header holds it; ConfigurationError or SpaceError if it has to be passed again."""
    if name == "space":
        return Space.rebuild(recorded)
    if name == "points":
        return points_from(recorded)
    if name in ("metric", "mode"):
        return recorded if len(recorded) > 1 else recorded[0]
    return rebuild(recorded, name)


def _difference(name: str, recorded: Any, described: Any) -> list[str]:
    if name == "points":
        return [f"points: {text_of_value(recorded)} -> {text_of_value(described)}"]
    return space_difference(recorded, described) if name == "space" else difference(name, recorded, described)


def _check_space(journal: Journal, space: Space, *, learns: bool) -> None:
    """Law: another space has the dimensions of the recorded one, by name and in order, for each trial's x lies in those."""
    if learns and space.describe() != journal.header["space"]:
        raise ConfigurationError(
            "allow: the space of a study that learns from earlier ones stays as it is, for what it knows of them is recorded in its "
            "coordinates. Start another study, with this one in its warm_start=[...]."
        )
    dims = journal.header.get("dims", list(space.names))        # a study made before they were recorded has none
    if dims != list(space.names):
        raise ConfigurationError(
            f"allow: the dimensions of a space stay {dims}, for all trials lie in them, but got {list(space.names)}. Start another study; "
            f"it may learn from this one, with searcher=hp.GPSearch() and warm_start=[{str(journal.folder)!r}]."
        )


def _other_trainable(header: Mapping[str, Any], given: Mapping[str, Any], allow: Sequence[str]) -> list[str]:
    from .training.recipe import recipe_of

    if given.get("trainable") is None or "trainable" in allow:
        return []
    return difference("trainable", header["trainable"]["name"], recipe_of(given["trainable"]).name)


def _limits(journal: Journal, given: Mapping[str, Any]) -> dict[str, Any]:
    """The new totals: what was given, "+50" upon what there was, or what the last turn was bound by, or the first is to be."""
    last = journal.last_limits()
    made = journal.trials()
    now: dict[str, Any] = {"trials": None, "time_budget": None, "target": None}
    if last is None:
        now |= journal.header.get("limits", {})         # older journals have none
    else:
        now |= {"trials": last.trials, "time_budget": last.seconds, "target": last.target}
    for name, spent in (("trials", made), ("time_budget", journal.seconds)):
        wanted = given.get(name)
        if isinstance(wanted, str):
            base = now[name] if now[name] is not None else spent
            now[name] = base + _more(name, wanted, int if name == "trials" else float)
        elif wanted is not None:
            now[name] = wanted
    if given.get("target") is not None:
        now["target"] = given["target"]
    if isinstance(now["trials"], int) and now["trials"] < made:
        raise ConfigurationError(
            f'trials: there are {made} already, so a total of {now["trials"]} cannot be; pass a larger one, or "+50" for more.'
        )
    return now


def _more(name: str, text: str, number: Callable[[str], Any]) -> Any:
    try:
        if not text.startswith("+"):
            raise ValueError
        return number(text[1:])
    except ValueError:
        raise ConfigurationError(f'{name}: a total (300) or more of it ("+100") is needed, but got {text!r}.') from None
