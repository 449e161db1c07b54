"""Sums as an evaluation leaves them, of errors that a test makes up."""

import numpy as np

from cvmae.evaluate.reconstruction import Sums

__all__ = ["make_sums", "sums_of", "varied_runs"]


def sums_of(square_SC, error_SCK):
    """Sums of one value per subject and code with these squared targets and squared errors."""
    num_subjects, num_codes = square_SC.shape
    subject, code = (
        grid.ravel()
        for grid in np.meshgrid(np.arange(num_subjects), np.arange(num_codes), indexing="ij")
    )
    error = error_SCK.reshape(-1, error_SCK.shape[-1])
    return Sums(
        num_subjects=num_subjects,
        num_sequences=num_subjects,
        num_hidden=square_SC.size,
        num_twins=0,
        measurements_C=np.full(num_codes, num_subjects),
        subject_R=subject,
        code_R=code,
        count_R=np.ones(len(subject)),
        sum_R=np.zeros(len(subject)),
        square_R=square_SC.ravel().astype(float),
        error_RK=error.astype(float),
        absolute_CK=np.zeros((num_codes, error.shape[1])),
    )


def make_sums(rng, errors, *, num_subjects=300, num_codes=3, values=4):
    """Targets of unit variance per subject and code; ``errors`` scale each method's error."""
    target = rng.normal(size=(num_subjects, num_codes, values))
    noise = rng.normal(size=(num_subjects, num_codes, values))
    error = np.stack([((scale * noise) ** 2).sum(axis=2) for scale in errors], axis=2)
    return sums_of((target**2).sum(axis=2), error)


def varied_runs(rng, num_runs, *, effects=None, num_subjects=60, num_codes=4, seed_sd=0.03):
    """Runs whose errors vary with the subject (heavily), the seed, and both at once.

    A run's mean squared error over that of the code mean is 0.4 x (1 + its effect + its seed's).
    """
    burden = rng.lognormal(0, 1, size=(num_subjects, 1))  # some subjects have far more values
    square = burden * rng.lognormal(0, 0.6, size=(num_subjects, num_codes))
    hard = 0.4 * rng.lognormal(-0.18, 0.6, size=(num_subjects, num_codes))  # of mean 0.4
    runs = []
    for effect in effects or [0.0] * num_runs:
        level = 1 + effect + seed_sd * rng.normal()
        own = 1 + 0.2 * rng.normal(size=(num_subjects, num_codes))
        runs.append(square * hard * level * np.maximum(own, 0))
    return sums_of(square, np.stack(runs, axis=2))
