"""Frozen encoders of text, audio and faces."""
