"""From a corpus to a catalogue of features: resolve, list, plan, encode, publish."""
