"""A model of a small hospital."""

from tests.small_model import loaded, model_of

__all__ = ["loaded", "model_of"]
