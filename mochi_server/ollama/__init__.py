"""The only door to Ollama: its wire types, the client, and a stand-in that speaks its protocol."""
