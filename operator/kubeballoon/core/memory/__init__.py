"""This package decides how much memory each VM of a node may use, and how fast memory is reclaimed from it."""
