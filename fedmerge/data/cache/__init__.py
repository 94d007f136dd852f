"""Decoded images on disk: made once, mapped into memory, read where they are needed."""
