"""Judge models by what they restore: the same hidden values for all, and honest intervals."""
