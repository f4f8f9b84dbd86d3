"""Probes: hardware, image, source, compile caches, data path, kernel wheels. Thin reading, pure parsing."""
