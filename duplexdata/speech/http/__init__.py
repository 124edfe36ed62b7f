"""Voices cloned by servers that take an OpenAI-style `POST /v1/audio/speech` with a recording and its transcript."""
