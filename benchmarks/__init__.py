"""What a user would ask of a relay, measured as ratios within one run."""
