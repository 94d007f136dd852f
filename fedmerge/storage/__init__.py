"""Files and folders: written whole or not at all, kept to their folder, sealed, listed, signed and locked."""
