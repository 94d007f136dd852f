"""Simulations: intervals, privacy, hostile hospitals, kills, and what a server can rebuild."""
