"""The library that every process of the AI backend shares. `routes` is the place to start reading."""

__version__ = "0.1.0"
