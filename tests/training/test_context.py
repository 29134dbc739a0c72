"""Which trial running code belongs to."""

import contextvars
import threading
from pathlib import Path

import pytest

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.training.context import NOWHERE, Context, Session, context, current
from torchtune_hp.training.function import get_checkpoint, report
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial


@pytest.fixture
def session(tmp_path):
    made = Session(Trial(7, (), {}, 11), Place(tmp_path / "000007", "cuda:1", 27, ("loss",), "digits"))
    yield made
    made.end()


def elsewhere(work):
    """What `work` gives or raises in a new thread."""
    got = []

    def run():
        try:
            got.append(work())
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return got[0]


def test_outside_every_trial_it_is_neutral():
    assert context() is NOWHERE
    assert context() == Context(trial_id=None, seed=0, dir=None, device="cpu", max_t=None, study="")


def test_inside_it_is_the_trial_s_and_the_folder_is_there(session, tmp_path):
    with session:
        assert not (tmp_path / "000007").exists()
        assert context() == Context(7, 11, tmp_path / "000007", "cuda:1", 27, "digits")
        assert (tmp_path / "000007").is_dir()
        assert context().dir == tmp_path / "000007"
    assert context() is NOWHERE


def test_in_memory_there_is_no_folder():
    session = Session(Trial(7, (), {}, 11), Place())
    with session:
        assert context() == Context(7, 11)
    session.end()
    session.end()


def test_sessions_nest(session):
    other = Session(Trial(8, (), {}, 12), Place())
    with session:
        with other:
            assert context().trial_id == 8
        assert context().trial_id == 7
    other.end()


def test_a_foreign_thread_belongs_to_the_only_open_trial(session):
    session.driver = -1
    assert elsewhere(current) is session
    session.end()
    assert elsewhere(current) is None


def test_a_foreign_thread_is_not_guessed_for_when_several_trials_are_open(session):
    other = Session(Trial(8, (), {}, 12), Place())
    error = elsewhere(current)
    assert isinstance(error, ConfigurationError)
    assert "2 trials are open" in str(error) and "contextvars.copy_context().run" in str(error)
    with session:
        inside = contextvars.copy_context()
    assert elsewhere(lambda: inside.run(current)) is session, "the way out that the error names"
    other.end()


def test_the_main_thread_and_driving_threads_are_outside(session):
    session.driver = -1
    assert current() is None, "the main thread"

    def drive():
        session.driver = threading.get_ident()
        return current()

    assert elsewhere(drive) is None


def test_a_trainable_reports_by_returning(session):
    with session:
        with pytest.raises(ConfigurationError, match=r"returning its metrics from step\(\)"):
            report(loss=1.0)
        with pytest.raises(ConfigurationError, match=r"by load_checkpoint\(\)"):
            get_checkpoint()


def test_the_folder_is_a_path(session):
    with session:
        assert isinstance(context().dir, Path)
