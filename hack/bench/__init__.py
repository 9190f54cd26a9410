"""Benchmarks: one module each, with a function that returns rows."""
