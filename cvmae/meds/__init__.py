"""MEDS on disk: no other room knows it."""
