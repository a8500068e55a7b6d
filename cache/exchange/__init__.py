"""Readers and writers of the feature formats the field already shares."""
