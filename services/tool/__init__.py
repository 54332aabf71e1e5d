"""Tools: typed functions that people and models call by name. `definition` says what one is, `sandbox` runs them."""
