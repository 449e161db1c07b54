"""From MEDS shards to masked, standardised, packed batches."""
