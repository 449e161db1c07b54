"""Whether a data set can be trained on."""
