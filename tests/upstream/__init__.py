"""A scripted OpenAI-compatible endpoint, for tests and measurements."""
