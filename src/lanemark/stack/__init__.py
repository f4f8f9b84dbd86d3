"""The reference training stack: the only room that needs torch. Started by name as a rank program, imported by nobody."""
