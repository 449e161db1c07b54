"""Metrics of runs: a journal, and MLflow."""
