"""What a model expects of rows, from the measurements around them or until then."""

import numpy as np
import torch

from cvmae.arrays import Floats
from cvmae.batches.batch import join_cells
from cvmae.batches.cells import make_cell
from cvmae.batches.evaluation import MOST_MEASUREMENTS
from cvmae.batches.masking import FixedMask
from cvmae.checkpoint import Loaded
from cvmae.infer.asked import Asked
from cvmae.infer.embed import why_not_finite
from cvmae.infer.placing import place, place_after_past
from cvmae.meds.measurements import Measurements

__all__ = ["is_imputing", "refuse_imputing", "restore"]


def is_imputing(model: Loaded) -> bool:
    """Tell whether a model's decoder can be asked for a value by code and time."""
    return not model.config.finetune.checkpoint and model.model.target == "value"


def refuse_imputing(model: Loaded) -> None:
    """Refuse a model whose decoder cannot be asked for a value by code and time.

    Raises:
        ValueError: It was trained with mask.target=measurement, or fine-tuned.
    """
    if model.config.finetune.checkpoint:
        raise ValueError(
            "this model was fine-tuned, which has trained its encoder away from its decoder: "
            "impute by the pretrained model that it began with"
        )
    if model.model.target != "value":
        raise ValueError(
            f"this model was trained with mask.target={model.model.target}, which hides codes and "
            "times from its decoder: impute by one of mask.target=value"
        )


def restore(
    model: Loaded, measurements: Measurements, asked: Asked, where: str, *, past_only: bool
) -> Floats:
    """Return the standardised value that is expected of each row, L entries.

    Args:
        model: That restores values; see `refuse_imputing`.
        measurements: Of a unit or a frame.
        asked: Of any subjects, with entries of the vocabulary for codes; NaN comes of those without
            a measurement that may be seen.
        where: What messages call model and rows.
        past_only: Show the model nothing later than a row; see `cvmae.infer.placing`.

    Raises:
        ValueError: The model makes numbers that are not finite.
    """
    # What comes out must not depend on how many cores a machine has.
    torch.set_num_threads(model.config.train.num_threads)
    statistics = model.fitted.statistics
    put = place_after_past if past_only else place
    placed = put(measurements, asked, model.config.data.sequence_length)
    device = model.model.mask_token.device
    z_R = np.zeros(len(placed.hidden_R))
    for passes in placed.in_batches(MOST_MEASUREMENTS):
        mask = FixedMask(hidden_M=passes.hidden_N)
        batch = join_cells([make_cell(passes.rows, passes.windows, statistics, mask)])
        with torch.inference_mode():
            z_M = model.model(batch.to(device)).float().cpu().numpy()
        restored_M = passes.row_M >= 0
        z_R[passes.row_M[restored_M]] = z_M[restored_M]
    if not np.isfinite(z_R).all():
        raise ValueError(f"{where}: imputed values are NaN or infinite; {why_not_finite(model)}")
    return np.where(placed.row_L >= 0, np.append(z_R, np.nan)[placed.row_L], np.nan)
