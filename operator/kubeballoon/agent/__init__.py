"""This package is the agent of a node: it reports what is there, carries requests out, and keeps guests safe."""
