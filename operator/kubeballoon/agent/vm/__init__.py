"""What the agent does for each VM: reading its object, moving its memory and its processors, guarding it."""
