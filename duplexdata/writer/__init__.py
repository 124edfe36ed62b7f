"""Texts written by a language model: who asks (`types`), how it is asked, and what becomes of the replies."""
