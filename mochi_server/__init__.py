"""A session-based chat microservice over a local Ollama."""

__version__ = "0.1.0"
