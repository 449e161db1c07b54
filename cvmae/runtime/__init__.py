"""Ranks, the start of Ray, signals, threads, memory: what the machine is asked for."""
