"""Clips: their streams, sound, pictures and words."""
