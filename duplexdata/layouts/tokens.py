"""Names of the tokens that are not text."""

from __future__ import annotations

SILENCE = "[SILENCE]"
"""Text channel: the assistant says nothing."""
ASSISTANT = "[ASSISTANT]"
"""Text channel: a reply begins."""
ASSISTANT_GLM = "<|assistant|>"
"""What [ASSISTANT] is in GLM-4-Voice's vocabulary."""
PAD = "[PAD]"
"""Text channel: the reply is being spoken, its text has been written."""
EPAD = "[EPAD]"
"""Text channel: the reply ends here."""
QUERY = "<1>"
"""DUO: what was heard is for the assistant, answer it."""
NON_QUERY = "<2>"
"""DUO: what was heard is not for the assistant, go on."""
EOS = "<eos>"
"""TDM and DUO: a reply is complete."""
IDLE = "<idle>"
"""TDM: nothing is said in this time slice."""


def audio_token(i: int) -> str:
    """Speech token `i`, named as in GLM-4-Voice's vocabulary."""
    return f"<|audio_{i}|>"
