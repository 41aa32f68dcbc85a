"""Many clients at once: whether each is served or told so, and what they leave behind. `scripts/load-test` runs it."""
