"""Runs on every node: reports what is, carries requests out, and keeps guests safe while doing so."""
