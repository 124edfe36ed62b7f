"""Layouts: one conversation as rows that a model trains on. Each is a view of the record and the codes."""
