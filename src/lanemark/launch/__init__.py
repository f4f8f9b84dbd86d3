"""Where a run happens: one small `Surface` protocol, one file a surface."""
