"""The offline model's answers in JSON: in a shape that the prompt describes by an example, computed from the prompt's texts."""
