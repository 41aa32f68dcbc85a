"""What a token and a turn cost, in counts: a count is the same on a slow machine."""
