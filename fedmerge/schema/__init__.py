"""What people and machines hand in: YAML, mappings and their fields, read with every fault in a sentence."""
