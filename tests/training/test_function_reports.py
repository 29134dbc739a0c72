"""What a train function reports, and how it ends."""

import math
import traceback

import pytest
import torch

import torchtune_hp.training.function as hp
from torchtune_hp.errors import ReportError, TrialFinishedError, TrialStopped
from torchtune_hp.training.runner import Look

# Reports --------------------------------------------------------------------------------------------------------------------


def test_a_report_is_a_dict_or_keywords_or_both(start):
    def train(config):
        hp.report({"loss": 1})
        hp.report(loss=torch.tensor(2.0))
        hp.report({"loss": 3}, extra="x")

    runner = start(train)
    assert runner.advance() == Look(1, {"loss": 1.0})
    assert runner.advance() == Look(2, {"loss": 2.0})
    assert runner.advance() == Look(3, {"loss": 3.0, "extra": "x"})
    assert runner.advance() == Look(3, {"loss": 3.0, "extra": "x"}, done=True)


def test_a_metric_in_the_dict_and_as_a_keyword_is_an_error(start):
    def train(config):
        hp.report({"loss": 1, "a": 1}, loss=1)

    with pytest.raises(ReportError, match=r"Trial 7: a metric may be reported once, but \['loss'\] are in the dict and keywords too"):
        start(train).advance()


def test_a_refused_report_is_raised_at_the_user_s_line_and_changes_nothing(start):
    def train(config):
        try:
            hp.report(los=1.0)      # the user's line
        except ReportError as error:
            hp.report(loss=2.0, said=str(error))
        hp.report(los=1.0)      # the second line

    runner = start(train)
    look = runner.advance()
    assert look.step == 1 and look.metrics["loss"] == 2.0 and "Did you mean 'los'?" in look.metrics["said"]
    with pytest.raises(ReportError) as caught:
        runner.advance()
    assert "the second line" in "".join(traceback.format_exception(caught.value))
    assert runner.step == 1


def test_a_refused_yield_is_raised_at_the_user_s_line_and_may_be_mended(start):
    def train(config):
        try:
            yield {"los": 1.0}
        except ReportError:
            yield {"loss": 2.0}
        yield None      # the second line

    runner = start(train)
    assert runner.advance() == Look(1, {"loss": 2.0})
    with pytest.raises(ReportError, match=r"Trial 7: train\(\)'s yield must give a dict of metrics such as .* but gave None") as caught:
        runner.advance()
    assert "the second line" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(TrialFinishedError):
        runner.advance()


def test_a_generator_may_report_as_well(start):
    def train(config):
        hp.report(loss=1.0)
        yield {"loss": 2.0}

    runner = start(train)
    assert [runner.advance() for _ in range(3)] == [Look(1, {"loss": 1.0}), Look(2, {"loss": 2.0}), Look(2, {"loss": 2.0}, done=True)]


def test_a_dropped_key_is_noted_on_its_look(start):
    def train(config):
        for _ in range(2):
            hp.report(loss=1.0, curve=[1])

    runner = start(train)
    assert "'curve' was dropped" in runner.advance().notes[0]
    assert runner.advance().notes == ()
    assert runner.advance() == Look(2, {"loss": 1.0}, done=True)


def test_nan_passes(start):
    def train(config):
        hp.report(loss=math.nan)

    runner = start(train)
    assert math.isnan(runner.advance().metrics["loss"])
    assert runner.advance().done


def test_the_config_is_the_function_s_own(start):
    def train(config):
        config["layers"].append(config.pop("lr"))
        yield {"loss": len(config["layers"])}

    config = {"lr": 0.1, "layers": [1]}
    assert start(train, config).advance().metrics == {"loss": 2.0}
    assert config == {"lr": 0.1, "layers": [1]}


# Ends -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "generator"])
@pytest.mark.parametrize(
    ("returned", "looks"),
    [
        (None, [Look(1, {"loss": 1.0, "a": 2.0}, done=True)]),
        ("text", [Look(1, {"loss": 1.0, "a": 2.0}, done=True)]),
        ({"loss": 1}, [Look(1, {"loss": 1.0, "a": 2.0}, done=True)]),
        ({"loss": 1, "a": 2}, [Look(1, {"loss": 1.0, "a": 2.0}, done=True)]),
        ({"loss": 0.5}, [Look(2, {"loss": 0.5}, done=True)]),
        ({"loss": 1, "b": 3}, [Look(2, {"loss": 1.0, "b": 3.0}, done=True)]),
    ],
)
def test_a_returned_dict_is_a_last_report_if_it_holds_news(start, kind, returned, looks):
    def function(config):
        hp.report(loss=1.0, a=2)
        return returned

    def generator(config):
        yield {"loss": 1.0, "a": 2}
        return returned

    runner = start(function if kind == "function" else generator)
    assert runner.advance() == Look(1, {"loss": 1.0, "a": 2.0})
    assert [runner.advance()] == looks
    with pytest.raises(TrialFinishedError, match="Trial 7 has ended"):
        runner.advance()


def test_a_returned_dict_without_the_metric_is_noted(start):
    def train(config):
        hp.report(loss=1.0)
        return {"weights": 3}

    runner = start(train)
    runner.advance()
    look = runner.advance()
    assert (look.step, look.metrics, look.done) == (1, {"loss": 1.0}, True)
    assert look.notes == ("Trial 7: the value that train() returned was not taken as a report: it lacks ['loss'].",)


def test_what_is_dropped_from_a_returned_dict_is_noted(start):
    def train(config):
        hp.report(loss=1.0)
        return {"loss": config["final"], "curve": []}

    for final in (1.0, 2.0):
        runner = start(train, {"final": final})
        runner.advance()
        look = runner.advance()
        assert look.metrics == {"loss": final} and len(look.notes) == 1 and "'curve'" in look.notes[0]


def test_a_dict_may_be_the_only_report(start):
    assert start(lambda config: {"loss": 1}).advance() == Look(1, {"loss": 1.0}, done=True)


@pytest.mark.parametrize("returned", [None, 0.5])
def test_a_function_without_a_report_is_an_error(start, returned):
    def train(config):
        return returned

    runner = start(train, metrics=("loss", "top5"))
    with pytest.raises(ReportError, match=r"Trial 7: train\(\) ended without a report. Call hp.report\(loss=..., top5=...\) in it, or"):
        runner.advance()
    with pytest.raises(TrialFinishedError):
        runner.advance()


def test_a_lone_returned_dict_without_the_metric_is_an_error(start):
    with pytest.raises(ReportError, match="the value that <lambda>\\(\\) returned gave only \\['los'\\]. Did you mean 'los'"):
        start(lambda config: {"los": 1}).advance()


def test_an_exception_comes_out_once_with_its_traceback_and_the_others_go_on(start):
    def train(config):
        for step in range(5):
            if step == config["at"]:
                raise KeyError("on purpose")        # the user's line
            hp.report(loss=1.0)

    bad, good = start(train, {"at": 1}), start(train, {"at": 9}, id=8)
    for runner in (bad, good):
        runner.advance()
    with pytest.raises(KeyError, match="on purpose") as caught:
        bad.advance()
    assert "the user's line" in "".join(traceback.format_exception(caught.value))
    assert good.advance().step == 2
    with pytest.raises(TrialFinishedError):
        bad.advance()
    bad.close()


def test_stopping_oneself_is_a_plain_end(start):
    def train(config):
        hp.report(loss=1.0)
        raise TrialStopped

    runner = start(train)
    runner.advance()
    assert runner.advance() == Look(1, {"loss": 1.0}, done=True)
