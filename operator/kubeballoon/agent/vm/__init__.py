"""This package looks after one VM: it reads its object, moves its memory and processors, and guards its guest."""
