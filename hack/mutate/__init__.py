"""Mutation testing of the core: it changes one spot at a time and asks whether a test of the core or of replay fails.

cosmic-ray makes most of the changes. What is chosen by chance, how long it may take and what the outcome means is here.
"""
