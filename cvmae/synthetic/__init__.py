"""A made-up hospital with known truth."""
