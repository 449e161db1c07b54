"""Summed squared error over hidden values, and its scale on one of several ranks."""

from torch import Tensor, nn

from cvmae.batches.batch import Batch

__all__ = ["hidden_error", "rank_loss"]


def hidden_error(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Return the summed squared error on standardised hidden values, and their number.

    A batch that hides nothing gives a zero whose gradient reaches every parameter (as zero),
    so that a rank with an empty batch keeps step with the others.
    """
    predicted_M = model(batch)
    target_M = batch.value_N[batch.hidden_M]
    return (predicted_M.float() - target_M).square().sum(), batch.num_hidden


def rank_loss(error_sum: Tensor, global_count: Tensor, world_size: int) -> Tensor:
    """Scale one rank's summed error so that averaged gradients equal the global mean's."""
    # DDP averages gradients over ranks. Ranks hide different numbers of values, so a mean
    # per rank would count a value on a sparse rank more than one on a dense rank.
    return error_sum * world_size / global_count.clamp(min=1)
