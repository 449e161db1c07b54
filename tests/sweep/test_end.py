"""How a sweep ends: what is written first, whose runs are closed, and where to look."""

import json
import types
from pathlib import Path

import pytest

from cvmae.runtime.preemption import PreemptedError
from cvmae.sweep import driver, trials


@pytest.mark.parametrize("kind", [KeyboardInterrupt, PreemptedError])
def test_an_interruption_ends_the_sweep_and_its_runs_as_killed(
    kind, config, pretrained, monkeypatch
):
    closed = []

    def interrupt(*args, **kwargs):
        raise kind

    monkeypatch.setattr(trials, "pretrain", interrupt)
    monkeypatch.setattr(driver, "close_run", lambda config, status: not closed.append(status))
    with pytest.raises(kind):
        driver.sweep(config)
    about = json.loads((Path(config.output_dir) / "tracking.json").read_text())
    assert about["status"] == "KILLED"
    assert closed == ["KILLED"] * 4


def test_the_run_of_a_trial_whose_process_was_lost_is_closed_at_the_end(
    config, pretrained, monkeypatch
):
    closed = []
    monkeypatch.setattr(driver, "close_run", lambda config, status: not closed.append(status))
    monkeypatch.setattr(driver, "_run", lambda attempt: {})
    driver.sweep(config)
    assert closed == ["FAILED"] * len(trials.plan_trials(config))


def test_a_server_that_is_down_is_waited_for_once_and_when_the_results_are_written(
    config, pretrained, monkeypatch
):
    found = []

    def close(of_trial, status):
        found.append((Path(config.output_dir) / "summary.json").exists())
        return False

    monkeypatch.setattr(driver, "close_run", close)
    driver.sweep(config)
    assert found == [True]


@pytest.mark.parametrize(
    ("location", "page", "said"),
    [
        ("http://host:5000", "http://host:5000/#/x", ["in a browser: http://host:5000/#/x"]),
        ("databricks", "", []),
        (
            "sqlite:////a.db",
            "http://own",
            ["in a browser: mlflow ui --backend-store-uri sqlite:////a.db\n  then http://own"],
        ),
    ],
)
def test_a_browser_is_sent_to_the_page_of_a_server_and_to_ones_own_for_a_database(
    location, page, said
):
    assert driver._in_browser(types.SimpleNamespace(location=location, page=page)) == said
