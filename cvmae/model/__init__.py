"""The value-only masked autoencoder, its attention and its loss."""
