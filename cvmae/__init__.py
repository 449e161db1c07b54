"""Pretrain EHR foundation models on Ray with volatility-aware masking."""

__version__ = "0.1.0"
