"""Speech in a clip, written down by a recogniser."""
