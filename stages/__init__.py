"""What is done to one utterance or one batch: corpora, decoding, faces, encoders, heads."""
