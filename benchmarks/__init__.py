"""Benchmarks: ratios to named ceilings, all measured in one run; a file a suite."""
