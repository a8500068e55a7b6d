"""Faces in a clip: found, followed, chosen and cut out."""
