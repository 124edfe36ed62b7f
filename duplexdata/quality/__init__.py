"""What is wrong with a synthesized utterance: samples and text in, faults out. No files, no models."""
