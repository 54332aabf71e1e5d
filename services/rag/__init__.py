"""Retrieval: the texts of a user, split, stored, and found again by word and by meaning."""
