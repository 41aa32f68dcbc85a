"""The sessions folder: the only room that touches it."""
