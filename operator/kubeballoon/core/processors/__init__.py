"""This package decides how many processors each VM of a node may use."""
