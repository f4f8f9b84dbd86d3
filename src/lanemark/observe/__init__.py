"""Probes: hardware, image and source provenance, compile caches, data path, kernel wheels. Thin reading, pure parsing."""
