"""From a cache to trained heads: load, split, prepare, fit, score, save."""
