"""Other clients of model servers, each in a virtual environment of its own: what `bench.models` measures this one against."""
