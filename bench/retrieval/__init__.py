"""How well retrieval finds what is there: a corpus with known answers, an engine, and figures."""
