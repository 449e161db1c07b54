"""A trained model put to use: embeddings, imputed values."""
