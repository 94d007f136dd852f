"""A Ray cluster: the options of a backend, attaching to a cluster or starting one, and the room on it."""
