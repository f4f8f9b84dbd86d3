"""Sources (I/O) to one frozen snapshot to pure detectors to findings."""
