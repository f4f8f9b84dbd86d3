"""The reference training stack: the only room that needs torch. Started by name, imported by nobody."""
