import numpy as np

from cvmae.evaluate.baselines import BASELINES, predict_baselines

MEAN, LAST, LINEAR = range(len(BASELINES))


def predict(*, value, hidden, sequence=None, code=None, time=None):
    zeros = np.zeros(len(value), dtype=np.int64)
    return predict_baselines(
        sequence_N=zeros if sequence is None else np.array(sequence),
        code_index_N=zeros if code is None else np.array(code),
        time_us_N=np.arange(len(value)) if time is None else np.array(time),
        value_N=np.array(value, dtype=np.float32),
        hidden_N=np.array(hidden, dtype=bool),
    )


def by_hand(sequence, code, time, value, hidden):
    """One hidden value after the other, as one would with pencil and paper."""
    rows = []
    for place in np.flatnonzero(hidden):
        same = [
            other
            for other in range(len(value))
            if not hidden[other]
            and sequence[other] == sequence[place]
            and code[other] == code[place]
        ]
        before, after = [o for o in same if o < place], [o for o in same if o > place]
        last = value[before[-1]] if before else 0.0
        if before and after:
            low, high = before[-1], after[0]
            span = time[high] - time[low]
            share = (time[place] - time[low]) / span if span else 0.0
            linear = value[low] + share * (value[high] - value[low])
        else:
            linear = last if before else value[after[0]] if after else 0.0
        rows.append([0.0, last, linear])
    return np.array(rows).reshape(-1, 3)


def test_a_line_is_drawn_in_time_and_not_in_rows():
    predicted = predict(value=[1, 9, 5], hidden=[0, 1, 0], time=[0, 30, 40])
    np.testing.assert_allclose(predicted[0], [0.0, 1.0, 4.0])


def test_what_has_no_neighbour_gets_the_mean_and_what_has_one_gets_it():
    predicted = predict(value=[9, 2, 9, 9], hidden=[1, 0, 1, 1], code=[0, 0, 0, 1])
    np.testing.assert_allclose(predicted[:, LAST], [0.0, 2.0, 0.0])
    np.testing.assert_allclose(predicted[:, LINEAR], [2.0, 2.0, 0.0])


def test_vectorised_baselines_equal_a_loop_over_hidden_values(rng):
    sequence = np.sort(rng.integers(0, 12, 400))
    code, time = rng.integers(0, 3, 400), np.sort(rng.integers(0, 10**6, 400))
    value, hidden = rng.normal(size=400).astype(np.float32), rng.random(400) < 0.4
    predicted = predict(value=value, hidden=hidden, sequence=sequence, code=code, time=time)
    expected = by_hand(sequence, code, time, value.astype(np.float64), hidden)
    # Both in float64; a line is written in two orders of operations.
    np.testing.assert_allclose(predicted, expected, rtol=1e-12, atol=1e-12)


def test_hidden_values_do_not_enter_a_baseline(rng):
    value, hidden = rng.normal(size=200), rng.random(200) < 0.5
    code = rng.integers(0, 4, 200)
    other = np.where(hidden, 1e6, value)
    np.testing.assert_array_equal(
        predict(value=value, hidden=hidden, code=code),
        predict(value=other, hidden=hidden, code=code),
    )


def test_no_measurement_gives_no_prediction():
    assert predict(value=[], hidden=[]).shape == (0, len(BASELINES))
