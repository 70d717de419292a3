"""Atomic files, image stores, memory, the terminal: what any part of the package may use."""
