"""Pretrain EHR foundation models on Ray with volatility-aware masking."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvmae.infer.model import Model

__all__ = ["load"]

__version__ = "0.1.0"


def load(path: str, device: str = "cpu") -> "Model":
    """Load a trained model, to use it on data frames in this process; nothing is unpickled.

    Args:
        path: Run folder, one checkpoint of it (`checkpoints/step_*`), or what `cvmae export` wrote;
            here or on object storage; or a model in MLflow (``models:/NAME@ALIAS``,
            ``models:/NAME/VERSION``, ``runs:/ID/PATH``), in the store that MLFLOW_TRACKING_URI
            names.
        device: Where it computes, as torch names it.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: It is damaged, or MLflow has no such model of ours.
        ImportError: It is in MLflow, which is not installed.

    Example:
        >>> model = cvmae.load("runs/cv")  # doctest: +SKIP
        >>> model.encode(rows)  # doctest: +SKIP
    """
    # By name: every module imports this one, and torch is not for who asks for the version.
    model: Model = resolve_name("cvmae.infer.model:load")(path, device)
    return model
