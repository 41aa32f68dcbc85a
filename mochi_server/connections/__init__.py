"""HTTP connections: uvicorn's, with limits on what their clients may send, and how slowly."""
