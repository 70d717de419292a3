"""Benchmarks and their command lines; not part of the installed package."""
