"""Other libraries on the same files, in an environment of their own."""
