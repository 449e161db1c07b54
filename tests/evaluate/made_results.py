"""Results as an evaluation reports them, of errors that a test makes up."""

import numpy as np

from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.provenance import Hardware, Provenance
from cvmae.evaluate.reconstruction import Sums
from cvmae.evaluate.results import Settings, build_results
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["NUM_CODES", "PROVENANCE", "SETTINGS", "make_results", "make_statistics"]

NUM_CODES, NUM_SUBJECTS, VALUES = 12, 150, 5
BASELINE_ERRORS = (1.0, 1.1, 0.8)
SETTINGS = Settings(
    split="held_out",
    seed=7,
    min_scored=100,
    bootstrap_samples=100,
    statistics="",
    mask_ratio=0.25,
    sequence_length=512,
)
PROVENANCE = Provenance(
    command="python jobs/evaluate.py",
    date="2026-11-23T00:00:00+00:00",
    data="meds",
    dataset="synthetic hospital",
    versions={"python": "3.11"},
    hardware=Hardware(machine="x86_64", num_cpus=2, gpu="none"),
)


def make_statistics(num_codes=NUM_CODES):
    cv = np.geomspace(0.01, 3, num_codes)
    ones = np.ones(num_codes)
    shapes = dict.fromkeys(
        ("minimum", "maximum", "q25", "median", "q75", "mad", "within_subject_std", "entropy"), ones
    )
    codes = tuple(f"LAB//lab {index}//mg/dL" for index in range(num_codes))
    return CodeStatistics(
        codes=codes,
        members=tuple((code,) for code in codes),
        num_values=np.full(num_codes, 10_000),
        num_subjects=np.full(num_codes, 900),
        raw_mean=100 * ones,
        raw_std=130 * cv,
        clip_low=-np.inf * ones,
        clip_high=np.inf * ones,
        mean=100 * ones,
        std=100 * cv,
        **shapes,
    )


def make_results(
    errors, *, seeds=3, num_codes=NUM_CODES, histories=True, settings=SETTINGS, called=None
):
    """Results in which each name's error on every code is scaled as given (by code or alike).

    Seeds are so many of each name, or a number by name.
    """
    rng = np.random.default_rng(11)
    subject, code = (
        grid.ravel() for grid in np.meshgrid(np.arange(NUM_SUBJECTS), np.arange(num_codes))
    )
    target = rng.normal(size=(len(subject), VALUES))
    shared = rng.normal(size=target.shape)  # what is hard is hard for all
    number = seeds if isinstance(seeds, dict) else dict.fromkeys(errors, seeds)
    names = [name for name in errors for _ in range(number[name])]
    columns = []
    for scale in [*(errors[name] for name in names), *BASELINE_ERRORS[1:]]:
        noise = shared + 0.3 * rng.normal(size=target.shape)
        scale_R = np.broadcast_to(np.asarray(scale, dtype=float), num_codes)[code]
        columns.append(((scale_R[:, None] * noise) ** 2).sum(axis=1))
    columns.insert(len(names), (target**2).sum(axis=1))  # the code mean
    error = np.stack(columns, axis=1)
    sums = Sums(
        num_subjects=NUM_SUBJECTS,
        num_sequences=NUM_SUBJECTS,
        num_hidden=target.size + 9,
        num_twins=9,
        measurements_C=np.full(num_codes, 4 * target.size // num_codes),
        subject_R=subject,
        code_R=code,
        count_R=np.full(len(subject), float(VALUES)),
        sum_R=target.sum(axis=1),
        square_R=(target**2).sum(axis=1),
        error_RK=error,
        absolute_CK=np.full((num_codes, error.shape[1]), 1.0),
    )
    curve = [
        {"epoch": e, "tuning_mse": 0.4 + 0.5 / e, "measurements_per_s": 8000.0} for e in range(1, 9)
    ]
    return build_results(
        sums,
        [Contestant(name=name, path=f"runs/{name}", stamp=f"weights of {name}") for name in names],
        statistics=make_statistics(num_codes),
        names=called or {},
        histories={name: [curve if histories else []] * number[name] for name in errors},
        settings=settings,
        provenance=PROVENANCE,
    )
