"""Tasks, the graph of their needs, the store of what they made, and the executors that do them.

The engine knows nothing of hospitals: a task is a configuration, a function that does it, and the tasks whose
artifacts it reads. ``task`` names it, ``graph`` orders it, ``store`` keeps what it made, ``schedule`` hands
it to an executor: this process, worker processes, or Ray.
"""
