"""The training loop, its engine, its workers and its tracking."""
