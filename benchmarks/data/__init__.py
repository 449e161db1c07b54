"""The suite `data`: the way from files to batches."""
