"""Observers: told of every turn, in order, and able to harm nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchtune_hp.executors.serial import Serial
from torchtune_hp.objective import Objective
from torchtune_hp.observers.base import Observer, Observers, StudyInfo
from torchtune_hp.results import Results
from torchtune_hp.schedulers import ASHA
from torchtune_hp.space import Space, uniform
from torchtune_hp.trial import Launch, Limits, Note, Reached
from torchtune_hp.tuner import Tuner

INFO = StudyInfo("s", None, Objective("a", "max"), Limits(2), None, {})
TURN = ([Reached(0, 1, {"a": 1.0}, 0.0)], [])


class Recorder:
    """Remembers what it is told; raises `error` in the hook called `at`."""

    def __init__(self, at: str = "", error: BaseException | None = None) -> None:
        self.at, self.error = at, error or ValueError("no")
        self.heard: list[tuple[Any, ...]] = []

    def _hear(self, verb: str, *what: Any) -> None:
        self.heard.append((verb, *what))
        if verb == self.at:
            raise self.error

    def begin(self, info: StudyInfo) -> None:
        self._hear("begin", info)

    def told(self, events: Any, commands: Any) -> None:
        self._hear("told", tuple(events), tuple(commands))

    def end(self, results: Any) -> None:
        self._hear("end", results)

    def close(self) -> None:
        self._hear("close")

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, *_ in self.heard]


class Silent:
    """An observer without `close`, which is optional."""

    def begin(self, info: StudyInfo) -> None: ...
    def told(self, events: Any, commands: Any) -> None: ...
    def end(self, results: Any) -> None: ...


def all_of(observers: Observers, turns: int = 1) -> None:
    observers.begin(INFO)
    for _ in range(turns):
        observers.told(*TURN)
    observers.end(None)  # type: ignore[arg-type]
    observers.close()


def test_each_hook_is_called_with_what_it_is_about_and_in_order() -> None:
    one, notes = Recorder(), []
    all_of(Observers([one], notes.append))
    assert one.heard == [("begin", INFO), ("told", tuple(TURN[0]), ()), ("end", None), ("close",)] and notes == []
    assert isinstance(one, Observer) and isinstance(Silent(), Observer)


def test_an_error_is_logged_with_the_observer_the_hook_and_the_error() -> None:
    notes: list[Note] = []
    all_of(Observers([Recorder("begin", KeyError("x"))], notes.append))
    assert notes == [Note("observer", "Recorder.begin raised KeyError('x').")]


def test_after_three_errors_an_observer_is_not_told_any_more() -> None:
    bad, good, notes = Recorder("told"), Recorder(), []
    all_of(Observers([bad, good], notes.append), turns=5)
    assert bad.verbs == ["begin", "told", "told", "told", "close"]
    assert good.verbs == ["begin", *["told"] * 5, "end", "close"]
    assert [note.text for note in notes] == [
        "Recorder.told raised ValueError('no').",
        "Recorder.told raised ValueError('no').",
        "Recorder.told raised ValueError('no'); it is not told any more.",
    ]


def test_an_observer_that_equals_another_is_dropped_alone() -> None:
    class Same(Recorder):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    good, bad = Same(), Same("told")
    all_of(Observers([good, bad], lambda note: None), turns=4)
    assert good.verbs.count("told") == 4 and bad.verbs.count("told") == 3


def test_errors_are_counted_over_all_hooks() -> None:
    class Always(Recorder):
        def _hear(self, verb: str, *what: Any) -> None:
            super()._hear(verb, *what)
            raise ValueError(verb)

    bad, notes = Always(), []
    all_of(Observers([bad], notes.append), turns=2)
    assert bad.verbs == ["begin", "told", "told", "close"] and len(notes) == 3


def test_an_observer_without_a_hook_is_an_error_like_any_other() -> None:
    notes: list[Note] = []
    Observers([object()], notes.append).told(*TURN)  # type: ignore[list-item]
    assert "object.told raised AttributeError" in notes[0].text


def test_close_is_called_once_for_each_and_its_errors_are_nobodys() -> None:
    bad, good, notes = Recorder("close"), Recorder(), []
    observers = Observers([bad, Silent(), good], notes.append)
    observers.close()
    observers.close()
    assert bad.verbs == good.verbs == ["close"] and notes == []


def test_what_is_no_error_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        Observers([Recorder("told", KeyboardInterrupt())], lambda note: None).told(*TURN)


# In a study -----------------------------------------------------------------------------------------------------------------


def curve(config: Any) -> Any:
    for step in range(4):
        yield {"a": config["x"] * (step + 1)}


def study(folder: Path, *observers: Any, trials: int = 6, **more: Any) -> Tuner:
    return Tuner(
        curve, Space({"x": uniform(0, 1)}), metric="a", mode="max", trials=trials, executor=Serial(),
        scheduler=ASHA(max_t=4, reduction_factor=2), observers=observers, verbose=0, storage=folder, name="s", **more,
    )  # fmt: skip


def test_an_observer_is_told_exactly_the_turns_of_the_journal(tmp_path: Path) -> None:
    one = Recorder()
    with study(tmp_path, one).fit() as results:
        turns = [(events, tuple(commands)) for events, _, commands in results.journal.turns()]
    told = [(events, commands) for verb, *rest in one.heard if verb == "told" for events, commands in [rest]]
    assert told == turns
    assert told[0][0] == () and isinstance(told[0][1][0], Launch)
    info = one.heard[0][1]
    assert (info.name, info.folder, info.before, info.earlier, info.standing.live) == ("s", tmp_path / "s", 0, None, ())
    assert one.verbs[-2:] == ["end", "close"]


def test_a_resumed_study_says_where_it_stands_and_tells_only_new_turns(tmp_path: Path) -> None:
    study(tmp_path).fit().close()
    seen: dict[str, Any] = {}

    class Late(Recorder):
        def begin(self, info: StudyInfo) -> None:
            super().begin(info)
            assert info.earlier is not None
            seen.update(earlier=len(info.earlier), best=info.earlier.best.trial)

    one = Late()
    with Tuner.resume(tmp_path / "s", curve, trials="+3", observers=[one], verbose=0, executor=Serial()).fit() as results:
        turns = list(results.journal.turns())
        assert len(results) == 9
    info = one.heard[0][1]
    assert (info.before, seen["earlier"]) == (6, 6) and info.limits.trials == 9
    told = [rest for verb, *rest in one.heard if verb == "told"]
    assert 0 < len(told) < len(turns)
    assert [tuple(commands) for _, commands in told] == [tuple(commands) for *_, commands in turns[-len(told) :]]
    assert all(step > 0 for _, step in info.standing.live)


@pytest.mark.parametrize("hook", ["begin", "told", "end", "close"])
def test_a_study_is_the_same_whatever_an_observer_raises(tmp_path: Path, hook: str) -> None:
    with study(tmp_path / "clean").fit() as clean:
        want = [(r.trial, r.config, r.metrics["a"], r.state) for r in clean]
    with study(tmp_path / "bad", Recorder(hook)).fit() as bad:
        assert [(r.trial, r.config, r.metrics["a"], r.state) for r in bad] == want
        notes = [note.text for note in bad.log if note.kind == "observer"]
    assert len(notes) == {"begin": 1, "told": 3, "end": 1, "close": 0}[hook]
    assert all(text.startswith(f"Recorder.{hook} raised ValueError") for text in notes)


def test_observers_are_closed_if_the_session_dies(tmp_path: Path) -> None:
    class Dies(Recorder):
        def told(self, events: Any, commands: Any) -> None:
            self._hear("told")
            if events:
                raise KeyboardInterrupt

    one = Dies()
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, one).fit()
    assert one.verbs == ["begin", "told", "told", "close"]
    with Results.open(tmp_path / "s") as results:
        assert len(results) > 0
