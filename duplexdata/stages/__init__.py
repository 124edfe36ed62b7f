"""Stages with files: each reads what the one before wrote, writes its own, and a marker last."""
