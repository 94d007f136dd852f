"""Ratios of time and memory, both sides measured in one run."""
