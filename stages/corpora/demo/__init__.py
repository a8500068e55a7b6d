"""The synthetic corpus of `mer demo`."""
