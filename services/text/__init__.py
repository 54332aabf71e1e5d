"""What can be read from a text without a model: scripts, counts, quotations, names. Nothing here does I/O."""
