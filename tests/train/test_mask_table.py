"""How often each code will be hidden is said before training, and after it how often it was."""

import importlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.batches.bricks import stream_bricks
from cvmae.batches.policies import mask_weights
from cvmae.settings import MaskConfig
from cvmae.train.mask_table import MASK_TABLE, read_sample
from cvmae.train.pretrain import pretrain
from cvmae.train.streams import make_plan
from tests.prepared import training_data

mask_table = importlib.import_module("cvmae.train.mask_table")


def columns_of(run) -> dict[str, np.ndarray]:
    table = pq.read_table(f"{run}/{MASK_TABLE}")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def masked(config, **settings):
    return replace(config, mask=MaskConfig(**settings), train=replace(config.train, epochs=1))


class Kept:
    """A tracker that notes what it is given."""

    def __init__(self):
        self.files, self.figures = [], {}

    def log_artifact(self, path):
        self.files.append(path)

    def log_figure(self, figure, name):
        self.figures[name] = figure


def foreseen(config):
    """Return the table as it is before training, and the tracker that was given it."""
    tracker = Kept()
    plan = make_plan(config, training_data(config))
    mask_table.write_mask_table(config, plan, tracker, aloud=True)
    return columns_of(config.output_dir), tracker


def messages(caplog, text) -> list[str]:
    return [r.getMessage() for r in caplog.records if text in r.getMessage()]


def realised(config, data, num_epochs=40):
    """Return the share of each code that is hidden over many epochs."""
    plan = make_plan(config, data)
    hidden, seen = np.zeros(8), np.zeros(8)
    for epoch in range(num_epochs):
        for brick in stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=epoch):
            hidden += np.bincount(brick.code_index_N, brick.hidden_N, minlength=8)
            seen += np.bincount(brick.code_index_N, minlength=8)
    return hidden / seen, hidden.sum() / seen.sum()


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "random"},
        {"policy": "cv"},
        {"policy": "cv", "ratio": 0.6},
        {"policy": "cv_two_level", "two_level_ratio": "published"},
    ],
    ids=str,
)
def test_expected_shares_are_those_that_many_epochs_hide(tiny, settings):
    config, data = masked(tiny, **settings), training_data(tiny)
    plan = make_plan(config, data)
    sample = read_sample(plan)
    assert len(sample.code_index_N) == plan.train_order.num_measurements_U.sum()
    chances = sample.chances(config, plan.weights.of_epoch(0, None))
    by_code, overall = realised(config, data)
    # Rosen's approximation is within some thousandths in long sequences, and these are of 20 to
    # 32; a share of a code's values over 40 epochs has a standard error of up to 0.005.
    np.testing.assert_allclose(sample.by_code(chances), by_code, atol=0.03)
    assert chances.mean() == pytest.approx(overall, abs=0.01)


def test_a_run_writes_the_table_and_completes_it(tiny, caplog, drawn):
    caplog.set_level(logging.INFO)
    config = masked(tiny, policy="cv")
    run = pretrain(config)
    found = columns_of(run)
    statistics = training_data(tiny).fitted.statistics
    np.testing.assert_array_equal(found["code"], statistics.codes)
    for name in ("cv", "robust_cv", "num_values"):
        np.testing.assert_array_equal(found[name], getattr(statistics, name))
    np.testing.assert_array_equal(found["weight"], mask_weights(statistics, config.mask))
    np.testing.assert_allclose(found["expected_share_random"], 0.25, atol=1e-3)
    metrics = pq.read_table(f"{run}/code_metrics.parquet")
    np.testing.assert_array_equal(found["realised_share"], metrics["mask_rate"].to_numpy())
    assert (Path(run) / "figures" / "share_hidden.png").is_file()
    (before,) = messages(caplog, "what mask.policy=cv will hide, 25.0% of all values")
    assert all(code in before for code in statistics.codes)
    (after,) = messages(caplog, "hidden in the last epoch: most often")
    assert statistics.codes[int(np.argmax(found["realised_share"]))] in after


def test_the_table_is_there_while_a_run_trains(tiny, monkeypatch):
    pretraining = importlib.import_module("cvmae.train.pretrain")

    def looks(config, *args):
        table = columns_of(config.output_dir)
        assert (table["expected_share"] > 0).all()
        assert np.isnan(table["realised_share"]).all()
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "_train", looks)
    with pytest.raises(KeyboardInterrupt):
        pretrain(masked(tiny, policy="cv"))


def test_a_trial_of_a_sweep_writes_its_table_and_keeps_quiet(tiny, caplog, drawn):
    caplog.set_level(logging.INFO)
    run = pretrain(masked(tiny, policy="cv"), parent_run_id="sweep")
    assert np.isfinite(columns_of(run)["realised_share"]).all()
    assert (Path(run) / "figures" / "share_hidden.png").is_file()
    assert not messages(caplog, "will hide")
    assert not messages(caplog, "most often")


def test_weights_that_move_are_those_of_the_last_epoch(tiny):
    config = masked(tiny, policy="cv", anneal_epochs=2)
    config = replace(config, train=replace(config.train, epochs=2))
    found, _ = foreseen(config)
    half = MaskConfig(policy="cv", sharpness=0.5)
    wanted = mask_weights(training_data(tiny).fitted.statistics, half)
    np.testing.assert_array_equal(found["weight"], wanted)


@pytest.mark.parametrize(
    ("settings", "when"),
    [
        ({"policy": "cv"}, ""),
        ({"policy": "cv", "anneal_epochs": 1}, " in the last epoch of 2"),
        ({"policy": "random", "anneal_epochs": 1}, ""),
        ({"policy": "adaptive"}, " in the first epoch of 2"),
    ],
)
def test_text_and_figure_name_the_epoch_of_which_shares_are_expected(tiny, caplog, settings, when):
    caplog.set_level(logging.INFO)
    policy, two = settings["policy"], replace(tiny.train, epochs=2)
    config = replace(masked(tiny, **settings), train=two)
    _, tracker = foreseen(config)
    assert messages(caplog, f"what mask.policy={policy} will hide{when}, 25.0%")
    (axes,) = tracker.figures["share_hidden"].axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["expected under random", f"expected under {policy}{when}"]


@pytest.mark.parametrize(("anneal_epochs", "is_said"), [(1, False), (2, True), (4, True)])
def test_sharpness_that_never_arrives_is_said_once(tiny, caplog, anneal_epochs, is_said):
    config = masked(tiny, policy="cv", anneal_epochs=anneal_epochs)
    foreseen(replace(config, train=replace(config.train, epochs=2)))
    said = messages(caplog, "is never reached")
    assert len(said) == is_said
    wanted = f"mask.anneal_epochs={anneal_epochs} is not below train.epochs=2: sharpness ends at "
    assert all(f"{wanted}{1 / anneal_epochs:g}" in line for line in said)


def test_codes_of_few_values_are_named_with_both_cvs(tiny, caplog):
    caplog.set_level(logging.INFO)
    found, _ = foreseen(masked(tiny, policy="cv"))
    (line,) = messages(caplog, "few values: ")
    assert (found["num_values"] < 1000).sum() == 8
    rarest = int(np.argmin(found["num_values"]))
    code, count, cv, robust = (
        found[name][rarest] for name in ("code", "num_values", "cv", "robust_cv")
    )
    assert f"{code} ({count:,} values): CV {cv:.3g}, robust {robust:.3g}; " in line
    assert line.count("robust") == 5
    assert line.endswith("; and 3 more")


def test_the_file_and_the_figure_of_what_is_foreseen_are_kept_with_the_run(tiny):
    _, tracker = foreseen(masked(tiny, policy="adaptive"))
    assert tracker.files == [f"{tiny.output_dir}/{MASK_TABLE}"]
    assert list(tracker.figures) == ["share_hidden"]


def test_many_codes_are_cut_to_those_at_both_ends(tiny, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(mask_table, "SHOWN_CODES", 4)
    found, _ = foreseen(masked(tiny, policy="cv"))
    (said,) = messages(caplog, "will hide")
    shown = {code for code in found["code"] if code in said}
    by_share = found["code"][np.argsort(-found["expected_share"], kind="stable")]
    assert shown == {*by_share[:2], *by_share[-2:]}
    assert "without 4 codes between" in said


def test_a_ratio_that_short_sequences_cannot_meet_is_said_once(tiny, caplog):
    foreseen(masked(replace(tiny, data=replace(tiny.data, sequence_length=3)), ratio=0.7))
    (said,) = messages(caplog, "cannot be met")
    # 0.7 of 3 values are 2.1, and one stays visible: windows are of 3 or 2.
    assert "mask.ratio=0.7 cannot be met by sequences of fewer than 4 measurements" in said
    assert "100.0% of the first" in said


def test_a_ratio_that_all_sequences_meet_is_not_spoken_of(tiny, caplog):
    foreseen(masked(tiny, ratio=0.5))
    assert not messages(caplog, "cannot be met")


def test_a_table_that_cannot_be_written_costs_a_warning(tiny, monkeypatch, caplog):
    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr(mask_table, "_write", fails)
    plan = make_plan(tiny, training_data(tiny))
    mask_table.write_mask_table(tiny, plan, Kept(), aloud=True)
    assert "mask_table.parquet is not written (disk full)" in caplog.text
