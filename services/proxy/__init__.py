"""The AI Proxy: the caller's side of the contract, as a class for Python backends and as an HTTP face (docs/proxy.md)."""
