"""The HTTP face of the AI Proxy: JSON, server-sent events and WebSocket (docs/proxy.md)."""
