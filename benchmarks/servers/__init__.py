"""What is started beside mochi-server: the stand-in for Ollama, the floor, and relays as one would write them first."""
