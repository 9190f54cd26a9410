"""Who governs a VM, what is requested of it, and how API objects become the values that the core decides on; no I/O."""
