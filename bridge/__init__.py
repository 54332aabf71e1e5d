"""The gRPC edge: a walk over `qingyu_ai.routes` with one handler for each kind of row."""
