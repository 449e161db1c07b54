"""Figures, tables and the HTML page of an evaluation."""
