"""Retrieval: the texts of a user, found again by meaning and by word."""
