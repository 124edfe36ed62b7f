"""The one vocabulary: text tokens, state tokens and speech tokens."""
