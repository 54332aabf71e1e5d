"""The bus protocol as a model: every order of steps of one call, within bounds. See docs/model.md.

Read in this order: `rules` (what may be switched off), `state` (what there is), `worker`, `reader` and `broker` (what may
happen), `invariants` (what must hold), `explorer` (the search), `configurations` (how far it goes).
"""
