"""The models that chat, agent and rag workers ask. `model` is the interface; `offline` is the one that is always there."""
