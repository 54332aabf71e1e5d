"""The model that is always there. `model` is the way in; the rest reads a prompt and puts the reading into words."""
