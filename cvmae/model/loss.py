"""Summed errors of what the decoder is asked for, and their scale on one of several ranks."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from cvmae.batches.batch import Batch, LabelledBatch
from cvmae.batches.code_metrics import FIXED_POINT
from cvmae.model.static import StaticBatch
from cvmae.settings import MaskTarget

__all__ = ["add_code_errors", "hidden_error", "label_error", "measurement_error", "rank_loss"]

LARGEST = 2.0**20  # squared error of a value as it is counted: sums of billions stay in 64 bits


def hidden_error(
    model: nn.Module,
    batch: Batch,
    code_error_C: Tensor | None = None,
    *,
    target: MaskTarget = "value",
    visible_scale: Tensor | None = None,
    static: StaticBatch | None = None,
) -> tuple[Tensor, int]:
    """Return the summed error of hidden measurements, and their number.

    The error of one is the squared error on its standardised value, to which `measurement_error`
    adds where code and time are hidden, too; times its weight, where the batch has weights.

    Args:
        model: Predicts hidden values.
        batch: Any.
        code_error_C: Sums by code, to which the squared errors are added, without weights.
        target: What is hidden of a measurement.
        visible_scale: What the summed squared error of visible values counts, which the model is
            then asked for; None: it is not.
        static: What holds the batch, if rows beyond it are not to count.

    A batch that hides nothing gives a zero whose gradient reaches every parameter (as zero),
    so that a rank with an empty batch keeps step with the others.
    """
    ask_all, whole = visible_scale is not None, target == "measurement"
    asked = model(batch, ask_all=ask_all, whole=whole) if ask_all or whole else model(batch)
    predicted_M = asked[:, 0] if whole else asked
    if ask_all:
        predicted_M = asked.index_select(0, batch.hidden_M)
    error_M = (predicted_M.float() - batch.value_N[batch.hidden_M]).square()
    if static is not None:
        error_M = error_M * static.own_M
    if code_error_C is not None:
        add_code_errors(code_error_C, batch, error_M.detach())
    if whole:
        others_M = measurement_error(asked, batch)
        error_M = error_M + (others_M if static is None else others_M * static.own_M)
    if batch.error_weight_M is not None:
        error_M = error_M * batch.error_weight_M
    error = error_M.sum()
    if visible_scale is not None:
        own_V = None if static is None else static.own_V
        error = error + visible_scale * _visible_error(asked, batch, own_V)
    return error, batch.num_hidden


def add_code_errors(code_error_C: Tensor, batch: Batch, square_M: Tensor) -> None:
    """Add squared errors of hidden values to the sums of their codes, int64 in `FIXED_POINT`."""
    # One that is not finite ends the run; as a whole number it could be anything.
    units_M = (square_M.nan_to_num(0.0).clamp(max=LARGEST).double() * FIXED_POINT).round()
    code_error_C.index_add_(0, batch.code_index_N[batch.hidden_M], units_M.long())


def measurement_error(asked: Tensor, batch: Batch) -> Tensor:
    """Return what each hidden code and time adds to the error of its value, shape [M].

    Cross-entropy of the code, and the squared error of log1p of the hours since the measurement
    before it in its sequence (0 for the first).

    Args:
        asked: Value, log1p of hours and scores of codes, shape [M, 2 + C].
        batch: With the answers.
    """
    before_M = batch.hours_N[(batch.hidden_M - 1).clamp(min=0)]
    # The first of a sequence is at 0 hours, behind which the sequence before cannot lie.
    gap_M = (batch.hours_N[batch.hidden_M] - before_M).clamp(min=0)
    time_error_M = (asked[:, 1].float() - gap_M.log1p()).square()
    code_M = batch.code_index_N[batch.hidden_M].long()
    return cross_entropy(asked[:, 2:].float(), code_M, reduction="none") + time_error_M


def label_error(model: nn.Module, batch: LabelledBatch) -> Tensor:
    """Return the summed cross-entropy of a batch's labels, which may be none.

    Args:
        model: Gives the log-odds of each sequence's label.
        batch: Any.
    """
    logit_B = model(batch).float()
    return binary_cross_entropy_with_logits(logit_B, batch.label_B, reduction="sum")


def rank_loss(error_sum: Tensor, global_count: Tensor, world_size: int) -> Tensor:
    """Scale one rank's summed error so that averaged gradients equal the global mean's."""
    # DDP averages gradients over ranks. Ranks hide different numbers of values, so a mean
    # per rank would count a value on a sparse rank more than one on a dense rank.
    return error_sum * world_size / global_count.clamp(min=1)


def _visible_error(asked_N: Tensor, batch: Batch, own_V: Tensor | None) -> Tensor:
    predicted_V = asked_N.index_select(0, batch.visible_V)
    square_V = (predicted_V.float() - batch.value_N[batch.visible_V]).square()
    return (square_V if own_V is None else square_V * own_V).sum()
