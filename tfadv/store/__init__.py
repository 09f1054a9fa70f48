"""Artifacts on the disk: written atomically, checked when they are read, locked while a process works on them."""
