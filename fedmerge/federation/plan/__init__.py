"""What a federation agrees on before its first round.

``options`` is the configuration's section ``federation`` (``privacy``, ``fault_injection``,
``participation``, ``server_optimizer`` and ``personal`` are parts of it), ``plan`` all that the server needs
for its rounds, ``train_config`` what each hospital is told of them.
"""
