"""Synthesizers: text and voice in, sound and (where the engine knows them) word times out."""
