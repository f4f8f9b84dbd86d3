"""Append-only object files named by their digest, evidence beside them, and a disposable SQLite index."""
