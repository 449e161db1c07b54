"""Evaluation batches: every sequence once, twins not scored, the same values for any batching."""

import numpy as np

from cvmae.batches.columns import has_twin
from cvmae.batches.evaluation import evaluation_batches
from cvmae.meds.dataset import open_dataset
from cvmae.meds.measurements import Measurements
from tests.prepared import fit


def test_measurements_of_the_same_subject_time_and_code_are_twins():
    twins = has_twin(
        Measurements(
            subject_id_S=np.array([1, 2]),
            offsets_S=np.array([0, 5, 7]),
            #                     a  twin  b  twin  a  | other subject
            code_index_N=np.array([0, 0, 1, 0, 0, 0, 1], np.int32),
            time_us_N=np.array([5, 5, 5, 5, 9, 9, 9]),
            numeric_value_N=np.array([1, 2, 3, 4, 5, 6, 7], np.float32),
        )
    )
    assert twins.tolist() == [True, True, False, True, False, False, False]


def test_scored_values_do_not_depend_on_how_sequences_are_batched(tiny):
    dataset, fitted = open_dataset(tiny.data.root), fit(tiny)
    found = []
    for most in (40, 10_000):
        values, subjects = [], []
        for unit in fitted.unit_index.units:
            for part in evaluation_batches(
                dataset,
                unit,
                fitted.statistics,
                split="held_out",
                sequence_length=32,
                ratio=0.25,
                seed=1,
                max_measurements=most,
            ):
                assert part.batch.num_sequences == 1 or part.batch.num_measurements <= most
                values.append(part.numeric_value_N[part.batch.hidden_M.numpy()][part.scored_M])
                subjects.append(part.subject_id_B)
        found.append((np.concatenate(values), np.concatenate(subjects)))
    assert len(found[0][0]) > 20
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
