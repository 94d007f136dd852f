"""The options of every file that people write, from the types: as a page, and as JSON Schema for editors."""
