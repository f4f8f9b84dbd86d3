"""What each lane asks, what its record must carry, its rules and its figures. Pure."""
