"""This package finds the policy that governs a VM, and translates API objects into the core's values, without I/O."""
