"""Exact-token sparse attention in isolated form: one contract, several backends, and what is seen of each."""
