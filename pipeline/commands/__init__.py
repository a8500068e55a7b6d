"""The commands of `mer`, one file each. Heavy imports stay inside the functions."""
