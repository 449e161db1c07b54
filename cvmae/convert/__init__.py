"""A public source -> a MEDS data set."""
