"""Utilities for the whole package: atomic files, image stores, memory measurements, terminal output."""
