"""Values of a unit that are hidden and restored, as the evaluation hides and `impute` restores."""

from dataclasses import dataclass

import numpy as np
import torch

from cvmae.arrays import Float32s, Ints
from cvmae.batches.columns import column_hidden, has_twin, uniform_column
from cvmae.batches.evaluation import column_batches
from cvmae.batches.keys import UInts, counter_hash, stream_keys
from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.infer.asked import Asked
from cvmae.infer.embed import why_not_finite
from cvmae.infer.restoring import restore
from cvmae.meds.measurements import Measurements

__all__ = ["Restored", "restore_hidden"]

# Shape letters: Q values that were hidden and restored, M hidden ones, C codes.


@dataclass(frozen=True, kw_only=True, eq=False)
class Restored:
    """Values that were hidden, no two of one subject, time and code, and what was expected."""

    subject_id_Q: Ints
    time_us_Q: Ints
    code_Q: Ints
    value_Q: Float32s  # in the code's unit, not clipped
    expected_Q: Float32s  # standardised

    def subjects_C(self, num_codes: int) -> Ints:
        """Return how many subjects each code's values are of."""
        pair_P2 = np.unique(np.stack([self.subject_id_Q, self.code_Q], axis=1), axis=0)
        return np.bincount(pair_P2[:, 1], minlength=num_codes)

    def draws(self, seed: int) -> UInts:
        """Return a draw for each value, of whose it is and when, and of nothing else."""
        bits_Q = stream_keys(seed, 0, self.subject_id_Q, stream="residual")
        for counter_Q in (self.time_us_Q, self.time_us_Q >> 32, self.code_Q):
            bits_Q = counter_hash(bits_Q, counter_Q)
        return bits_Q


NOTHING = Restored(
    subject_id_Q=np.empty(0, np.int64),
    time_us_Q=np.empty(0, np.int64),
    code_Q=np.empty(0, np.int64),
    value_Q=np.empty(0, np.float32),
    expected_Q=np.empty(0, np.float32),
)


def restore_hidden(model: Loaded, measurements: Measurements, config: Config) -> Restored:
    """Hide a share of a unit's values, and restore those that have no twin.

    Args:
        model: That restores values.
        measurements: Of a unit.
        config: Its `evaluate.mask_ratio` and `evaluate.seed` say what is hidden, its
            `infer.past_only` how it is restored.

    Raises:
        ValueError: What comes out is not finite.
    """
    own = config.evaluate
    if config.infer.past_only:
        return _from_the_past(model, measurements, own.mask_ratio, own.seed)
    torch.set_num_threads(model.config.train.num_threads)
    statistics, device = model.fitted.statistics, model.model.mask_token.device
    parts = [NOTHING]
    for batch in column_batches(
        measurements,
        statistics,
        uniform_column(own.mask_ratio),
        sequence_length=model.config.data.sequence_length,
        seed=own.seed,
    ):
        with torch.inference_mode():
            expected_M = model.model(batch.batch.to(device)).float().cpu().numpy()
        if not np.isfinite(expected_M).all():
            raise ValueError(
                f"hidden values are restored as NaN or infinite; {why_not_finite(model)}"
            )
        scored_N = batch.batch.hidden_M.numpy()[batch.scored_M]
        lengths_B = batch.batch.num_visible_B + batch.batch.num_hidden_B
        parts.append(
            Restored(
                subject_id_Q=np.repeat(batch.subject_id_B, lengths_B)[scored_N],
                time_us_Q=batch.time_us_N[scored_N],
                code_Q=batch.code_index_N[scored_N].astype(np.int64),
                value_Q=batch.numeric_value_N[scored_N],
                expected_Q=expected_M[batch.scored_M],
            )
        )
    return Restored(**{n: np.concatenate([vars(p)[n] for p in parts]) for n in vars(NOTHING)})


def _from_the_past(model: Loaded, measurements: Measurements, ratio: float, seed: int) -> Restored:
    """Hide the same values, and restore each from what is visible at or before its time.

    Those before which nothing is visible are left out: they would have no interval.
    """
    hidden_N = column_hidden(uniform_column(ratio), measurements, seed=seed)
    asked = Asked.of(measurements).take(hidden_N)
    z_M = restore(model, measurements, asked, "hidden values", past_only=True)
    kept_M = ~has_twin(measurements)[hidden_N] & ~np.isnan(z_M)
    return Restored(
        subject_id_Q=asked.subject_id_L[kept_M],
        time_us_Q=asked.time_us_L[kept_M],
        code_Q=asked.code_L[kept_M],
        value_Q=measurements.numeric_value_N[hidden_N][kept_M],
        expected_Q=z_M[kept_M].astype(np.float32),
    )
