"""Policies x epochs x seeds, side by side."""
