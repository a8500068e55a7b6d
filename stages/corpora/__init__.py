"""Corpus adapters, one file each."""
