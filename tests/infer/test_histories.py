import numpy as np
import pytest

from cvmae.infer.histories import Moments, ask_every_code, history_batches, num_until
from cvmae.meds.measurements import Measurements


def measurements_of(rng, subjects, num_codes):
    """Rows of some subjects, several at one time, subjects ascending within a file only."""
    counts = rng.integers(1, 40, len(subjects))
    times = [np.sort(rng.integers(0, 30, count)) * 3_600_000_000 for count in counts]
    return Measurements(
        subject_id_S=np.array(subjects, np.int64),
        offsets_S=np.concatenate([[0], np.cumsum(counts)]),
        code_index_N=rng.integers(0, num_codes, counts.sum()).astype(np.int16),
        time_us_N=np.concatenate(times),
        numeric_value_N=rng.normal(size=counts.sum()).astype(np.float32),
    )


def naive(measurements, subject, time):
    """The rows of a subject at or before a time, one by one."""
    rows = []
    for place, own in enumerate(measurements.subject_id_S):
        begin, end = measurements.offsets_S[place : place + 2]
        if own == subject:
            rows = [row for row in range(begin, end) if measurements.time_us_N[row] <= time]
    return rows


@pytest.fixture
def moments():
    def draw(rng, subjects, number):
        asked = np.sort(rng.choice([*subjects, 77], number))  # 77 has no rows
        times = rng.integers(-2, 33, number) * 3_600_000_000 + rng.integers(-1, 2, number)
        return Moments(subject_id_L=asked, time_us_L=times)

    return draw


def test_rows_until_a_time_are_those_of_a_plain_loop(rng, moments):
    subjects = [5, 8, 90, 2, 3, 60]  # two files
    rows, asked = measurements_of(rng, subjects, 4), moments(rng, subjects, 300)
    begin_L, num_L = num_until(rows, asked)
    assert num_L.min() == 0
    for label in range(asked.num_moments):
        wanted = naive(rows, asked.subject_id_L[label], asked.time_us_L[label])
        assert list(range(begin_L[label], begin_L[label] + num_L[label])) == wanted


@pytest.mark.parametrize("max_measurements", [1, 50, 10_000])
def test_a_history_is_the_last_measurements_until_the_moment(
    rng, moments, loaded, max_measurements
):
    statistics, subjects = loaded.fitted.statistics, [5, 8, 90, 2, 3, 60]
    rows, asked = (
        measurements_of(rng, subjects, statistics.num_codes),
        moments(rng, subjects, 60),
    )
    seen = []
    for history in history_batches(
        rows, asked, statistics, sequence_length=12, max_measurements=max_measurements
    ):
        offsets = history.batch.offsets_B.tolist()
        assert len(history.moment_B) == 1 or offsets[-1] <= max_measurements
        assert history.batch.num_hidden == 0
        for place, moment in enumerate(history.moment_B):
            time = asked.time_us_L[moment]
            wanted = naive(rows, asked.subject_id_L[moment], time)[-12:]
            own = slice(*offsets[place : place + 2])
            code_index = rows.code_index_N[wanted]
            assert history.batch.code_index_N[own].tolist() == code_index.tolist()
            value = statistics.standardise(code_index, rows.numeric_value_N[wanted])
            assert history.batch.value_N[own].tolist() == value.tolist()
            first = rows.time_us_N[wanted[0]]
            hours = ((rows.time_us_N[wanted] - first) // 60_000_000).astype(np.float32) / 60
            np.testing.assert_allclose(history.batch.hours_N[own], hours, rtol=1e-6)
            assert history.elapsed_us_B[place] == time - first
            seen.append(moment)
    has_rows = [
        bool(naive(rows, subject, time))
        for subject, time in zip(asked.subject_id_L, asked.time_us_L, strict=True)
    ]
    assert seen == np.flatnonzero(has_rows).tolist()


def test_short_histories_that_many_codes_are_asked_of_do_not_fill_one_batch(rng, moments, loaded):
    statistics, subjects = loaded.fitted.statistics, list(range(1, 30))
    rows = measurements_of(rng, subjects, statistics.num_codes)
    first_S = rows.time_us_N[rows.offsets_S[:-1]]
    asked = Moments(subject_id_L=rows.subject_id_S, time_us_L=first_S)  # a row or two of each
    given = {"sequence_length": 12, "max_measurements": 100}
    sizes = [
        len(history.moment_B)
        for history in history_batches(rows, asked, statistics, num_asked=40, **given)
    ]
    assert max(sizes) == 2
    assert sum(sizes) == len(subjects)


def test_every_code_is_asked_for_at_the_moment_and_not_later(rng, moments, loaded):
    statistics, subjects = loaded.fitted.statistics, [5, 8]
    rows = measurements_of(rng, subjects, statistics.num_codes)
    asked = Moments(
        subject_id_L=np.array([5, 8]), time_us_L=np.array([31, 32]) * 3_600_000_000 + 59_999_999
    )
    (history,) = history_batches(rows, asked, statistics, sequence_length=100)
    batch, num_codes = ask_every_code(history, statistics.num_codes), statistics.num_codes
    assert batch.code_index_N.tolist() == [*range(num_codes)] * 2
    assert batch.num_hidden == 2 * num_codes
    first_B = rows.time_us_N[rows.offsets_S[:-1]]
    hours_B = ((asked.time_us_L - first_B) // 60_000_000).astype(np.float32) / 60
    np.testing.assert_allclose(batch.hours_N, np.repeat(hours_B, num_codes), rtol=1e-6)
