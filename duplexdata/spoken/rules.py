"""Rules that replace one pattern by another where the text has a certain character."""

from __future__ import annotations

import re

Rule = tuple[str, re.Pattern[str], str]
"""A character that must be in the text, what to look for, what to put there."""


def apply_rules(text: str, rules: tuple[Rule, ...]) -> str:
    for needle, pattern, replacement in rules:
        if needle in text:
            text = pattern.sub(replacement, text)
    return text
