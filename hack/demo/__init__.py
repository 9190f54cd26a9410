"""`make demo`: real guests give memory back to a real node because a MemoryPolicy says so."""
