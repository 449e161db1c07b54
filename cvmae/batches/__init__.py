"""Measurements -> sequences -> masks -> batches, in an order that ranks do not change."""
