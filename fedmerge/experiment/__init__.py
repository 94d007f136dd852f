"""One experiment: a configuration goes in, measurements come out.

``configuration`` reads and checks it, ``stages`` are its parts as tasks, ``folder`` holds what a run leaves
behind, ``summary`` says it in sentences. ``fedmerge.workflows`` puts them together.
"""
