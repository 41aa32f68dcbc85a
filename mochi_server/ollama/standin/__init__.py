"""A small server that speaks Ollama's protocol over a real socket: what `--demo` runs on, and what tests talk to.

It is held to recordings of a real Ollama, and can be told to fail in every way that one can.
"""

from mochi_server.ollama.standin.protocol import Called, ChatCall, Message, Model, Reply, ToolCall
from mochi_server.ollama.standin.reply import HUGE_LINE
from mochi_server.ollama.standin.script import LOADING, Behaviour, Fault, Gate
from mochi_server.ollama.standin.server import Recorded, StandIn

__all__ = [
    "HUGE_LINE",
    "LOADING",
    "Behaviour",
    "Called",
    "ChatCall",
    "Fault",
    "Gate",
    "Message",
    "Model",
    "Recorded",
    "Reply",
    "StandIn",
    "ToolCall",
]
