"""What happens to a request on its way."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Meter:
    """Of one request, while the client tries and tries again.

    Attributes:
        sent: times it was sent.
        lost: times it was sent and its reply did not come whole. It may be billed all the same.
    """

    sent: int = 0
    lost: int = 0


METER: ContextVar[Meter | None] = ContextVar("METER", default=None)
"""Of the request that the current task is making."""
