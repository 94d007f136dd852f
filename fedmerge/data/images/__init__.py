"""Images as they are handed on: in memory (``images``), on disk (``stored``), and their ``facts``."""
