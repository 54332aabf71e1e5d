"""Benches: `make bench`. Each prints a table whose rows were measured in one run."""
