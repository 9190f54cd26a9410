"""The agent's work for each VM: reads its object, moves its memory and its processors, and guards its guest."""
