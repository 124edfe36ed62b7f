"""Full-duplex decoding: a user's speech tokens in, the assistant's text and speech tokens out, block by block.

Source: arXiv 2606.14528, algorithm 1.
"""

from __future__ import annotations

from duplexdata.decoding.decoder import DuplexDecoder
from duplexdata.decoding.stream import DuplexStream, Step
from duplexdata.decoding.values import Decoded, DecodeSettings, Event, Request, Sampling, events_of

__all__ = [
    "DecodeSettings",
    "Decoded",
    "DuplexDecoder",
    "DuplexStream",
    "Event",
    "Request",
    "Sampling",
    "Step",
    "events_of",
]
