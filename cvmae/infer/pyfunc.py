"""A model as MLflow loads it: this module is named in it, and nothing in it is unpickled.

MLflow calls `_load_pyfunc` with the folder that `cvmae export` wrote, of which it keeps a copy, as
it does of this package: whoever loads it by MLflow runs that copy, `cvmae.load` what is installed.
"""

from typing import Any

from cvmae.infer.model import Model, load
from cvmae.infer.pooling import default_pooling

__all__ = ["POOLING", "Embedder"]

POOLING = "pooling"  # the name of a parameter of predict


class Embedder:
    """Embeds each subject of a data frame at its last measurement; see `Model.encode`."""

    def __init__(self, model: Model) -> None:
        """Hold a model."""
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return a row for each subject.

        Args:
            model_input: pandas frame of MEDS columns, as the signature names them.
            params: `POOLING`, as `infer.pooling`.

        Raises:
            ValueError: See `Model.encode`.
        """
        pooling = (params or {}).get(POOLING) or default_pooling(self.model.loaded)
        return self.model.encode(model_input, pooling=pooling)


def _load_pyfunc(path: str) -> Embedder:
    return Embedder(load(path))
