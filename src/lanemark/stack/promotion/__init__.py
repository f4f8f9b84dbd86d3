"""Is a kernel path right, and is it the one that ran: the parity engine and its witnesses. Needs torch."""
