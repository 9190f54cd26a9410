"""Decides how much memory each VM may use, and writes it on the VMs; it never touches a node."""
