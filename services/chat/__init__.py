"""The chat worker: Chat and ChatStream over a model, with session memory."""
