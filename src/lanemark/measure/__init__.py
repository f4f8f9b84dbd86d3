"""What runs inside a rank: the phase beacon, the step samples, the measured loop, peaks. torch is optional here."""
