"""The suite `chaos`: runs that are killed again and again."""
