"""This package makes kubectl-balloon as a folder that needs no Python, and its manifest for krew."""
