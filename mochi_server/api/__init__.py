"""HTTP in and out: the only room that imports starlette or sse_starlette."""
