"""Trainable fusion heads."""
