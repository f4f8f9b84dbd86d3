"""Comparability, statistics, citing. Pure."""
