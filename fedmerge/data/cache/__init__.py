"""Decoded images on disk: made once, read where they are needed."""
