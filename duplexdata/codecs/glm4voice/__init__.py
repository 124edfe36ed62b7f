"""The GLM-4-Voice speech tokenizer: 12.5 tokens per second of 16 kHz audio, from its checkpoint folder."""

from __future__ import annotations

from duplexdata.codecs.glm4voice.tokenizer import Glm4VoiceTokenizer

__all__ = ["Glm4VoiceTokenizer"]
