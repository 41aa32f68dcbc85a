"""HTTP in and out: the only room that imports starlette."""
