"""What a dry run times: the step that ranks would take, and the embedding of a few subjects."""

import numpy as np
import pytest
import torch

from cvmae.checkpoint import load_model
from cvmae.config import PRESETS, override
from cvmae.dry_run import timing
from cvmae.dry_run.timing import (
    embedding_seconds,
    likely_lengths,
    restoring_seconds,
    scoring_seconds,
    slowest_of,
    step_seconds,
    training_time,
)
from cvmae.evaluate.evaluate import find_comparison
from cvmae.infer.embed import ASKED
from cvmae.meds.dataset import Source, open_dataset
from cvmae.meds.units import plan_units
from cvmae.plan.one_run import EXCHANGE_S, Amount

TINY = override(PRESETS["tiny"], {"scaling.num_workers": 2})


@pytest.fixture
def counted(monkeypatch):
    """Let a step take a millisecond a sequence; return the sequences of steps."""
    timing._timed.cache_clear()
    sizes = []

    def rounds(engine, batches):
        batch = next(batches)
        sizes.append(batch.num_sequences)
        assert torch.get_num_threads() == engine._config.train.num_threads
        return [1e-3 * batch.num_sequences]

    monkeypatch.setattr(timing, "_rounds", rounds)
    yield sizes
    timing._timed.cache_clear()


def test_the_part_of_a_rank_is_timed(counted):
    step = Amount(num_sequences=16, num_measurements=16 * 100)
    assert step_seconds(TINY, 10, step) == pytest.approx(8e-3)
    assert counted == [8]
    parts = override(TINY, {"train.accumulation_steps": 2, "train.num_threads": 2})
    assert step_seconds(parts, 10, step) == pytest.approx(8e-3)
    assert counted == [8, 4]


def test_a_large_step_is_timed_in_part(counted):
    step = Amount(num_sequences=2000, num_measurements=2000 * 100)
    assert step_seconds(TINY, 10, step) == pytest.approx(1.0)
    assert counted == [41]


def test_lengths_have_the_mean_that_is_known_and_no_window_is_longer():
    for mean in (3, 60, 177, 400):
        lengths_Q = likely_lengths(mean, 512)
        assert lengths_Q.mean() == pytest.approx(mean, rel=0.05)
        assert lengths_Q.min() >= 2
        assert lengths_Q.max() == (512 if mean > 20 else lengths_Q[-1])
    assert np.all(likely_lengths(512, 512)[100:] == 512)


def test_ranks_wait_for_the_slowest_of_them():
    assert slowest_of(1, [3.0, 1.0]) == 2
    # Both draw 1 once in four times.
    assert slowest_of(2, [3.0, 1.0]) == 0.75 * 3 + 0.25 * 1
    drawn = np.random.default_rng(0).choice([1.0, 2.0, 5.0], (100_000, 4)).max(axis=1).mean()
    assert slowest_of(4, [5.0, 1.0, 2.0]) == pytest.approx(drawn, rel=0.01)


def test_trials_that_differ_in_other_settings_are_timed_once(counted):
    step = Amount(num_sequences=16, num_measurements=1600)
    for name, value in [("seed", 1), ("mask.policy", "random"), ("train.epochs", 9)]:
        step_seconds(override(TINY, {name: value}), 10, step)
    assert len(counted) == 1
    step_seconds(override(TINY, {"model.width": 64}), 10, step)
    assert len(counted) == 2


def test_epochs_take_what_their_steps_take(counted):
    amount = Amount(num_sequences=1600, num_measurements=160_000)
    taken = training_time(TINY, amount, 10, epochs=3)
    assert taken.in_turn == pytest.approx(3 * 100 * (8e-3 + EXCHANGE_S) / 3600)
    assert training_time(TINY, amount, 10, epochs=0).in_turn == 0


def test_a_step_is_really_taken_and_threads_are_left_as_they_were():
    threads = torch.get_num_threads()
    config = override(TINY, {"train.num_threads": threads + 1})
    assert step_seconds(config, 10, Amount(num_sequences=8, num_measurements=800)) > 0
    assert torch.get_num_threads() == threads


@pytest.fixture
def clock(monkeypatch):
    """Let time pass only in what is timed; return what moves it."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


def of_everybody(run, hospital):
    model, dataset = load_model(run.output_dir), open_dataset(hospital)
    everybody = np.sort(np.concatenate(list(dataset.members.values())))
    units = plan_units(dataset, run.data.unit_rows)
    return model, Source(root=dataset.root, members={ASKED: everybody}), units


def test_more_and_more_are_timed_as_long_as_time_allows(clock):
    sizes = []

    def work(number):
        sizes.append(number)
        clock(0.01 * number)

    assert timing._mean_seconds(lambda number: number, work, 100) == pytest.approx(0.01)
    assert sizes == [1, 8, 64]  # the last of which took its share of the time
    sizes.clear()
    assert timing._mean_seconds(lambda number: number, work, 20) == pytest.approx(0.01)
    assert sizes == [1, 8, 20]
    sizes.clear()
    slow = timing._mean_seconds(lambda number: number, lambda number: clock(60.0), 100, beside=20.0)
    assert slow == 40
    assert timing._mean_seconds(lambda number: number, work, 0) == 0
    assert sizes == []


def test_a_step_that_takes_long_is_taken_once(clock):
    steps = []

    class Engine:
        def step(self, batches, number):
            steps.append(number)
            clock(100.0)

    assert timing._rounds(Engine(), [None] * 9) == [100.0]
    assert steps == [0]


def test_an_embedding_is_timed_on_one_unit(run, hospital, monkeypatch, clock):
    model, source, units = of_everybody(run, hospital)
    sizes = []

    def embed(loaded, measurements, moments, poolings):
        sizes.append(moments.num_moments)
        clock(0.1 * moments.num_moments)

    monkeypatch.setattr(timing, "embed_moments", embed)
    monkeypatch.setattr(timing, "MOST_MOMENTS", 5)
    assert embedding_seconds(model, source, units, "mean") == (0.0, pytest.approx(0.1))
    assert sizes == [1, 5]


def test_of_units_without_a_subject_none_is_embedded(run, hospital, monkeypatch, clock):
    model, source, units = of_everybody(run, hospital)
    nobody = Source(root=source.root, members={ASKED: np.array([-1])})
    assert embedding_seconds(model, nobody, units, "mean")[1] == 0
    assert restoring_seconds(model, nobody, units, run)[1] == 0


def test_values_of_a_few_subjects_are_restored(run, hospital, monkeypatch, clock):
    model, source, units = of_everybody(run, hospital)
    sizes = []

    def restore(loaded, measurements, config):
        sizes.append(len(measurements.subject_id_S))
        assert measurements.offsets_S[-1] == len(measurements.numeric_value_N)
        clock(0.2 * len(measurements.subject_id_S))

    monkeypatch.setattr(timing, "restore_hidden", restore)
    monkeypatch.setattr(timing, "MOST_SCORED", 5)
    assert restoring_seconds(model, source, units, run) == (0.0, pytest.approx(0.2))
    assert sizes[0] == 1


def test_a_few_subjects_are_scored_under_all_columns(run, hospital, tmp_path, monkeypatch, clock):
    changes = {"evaluate.checkpoints": (f"cv={run.output_dir}",), "output_dir": str(tmp_path)}
    config = override(run, changes)
    compared = find_comparison(config, str(tmp_path))
    seen = []

    def score(unit, *, source, split, columns, **given):
        seen.append((len(source.members[split]), len(columns)))
        clock(0.05 + 0.01 * len(source.members[split]) * len(columns))

    monkeypatch.setattr(timing, "score_unit", score)
    monkeypatch.setattr(timing, "MOST_SCORED", 4)
    # Reading takes 0.05 s by itself.
    assert scoring_seconds(compared, config, ("uniform", "own")) == pytest.approx(0.02)
    assert seen[1:] == [(1, 2), (4, 2)]
    assert seen[0][1] == 0
