"""The model that is always there. `model` is the way in; the rest reads a prompt and puts it into words or (`shaped`) JSON."""
