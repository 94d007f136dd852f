"""The schema of all messages in both directions; anything that it does not declare is refused.

``table`` lists them: for each message type the class of its job and of its reply, pydantic classes in
``jobs``, ``replies`` and ``secure``, of types from ``fields``. ``tensors`` declares and reads the arrays of a
message, ``networks`` derives them from a network's description, ``reading`` parses a message, ``text`` cleans
text from outside, ``records`` makes and opens Flower's records. ``client_state`` is what a hospital keeps
between rounds, ``control_variates`` what both sides compute of them.

To add a field, write it into the class of its job or reply, with a type from ``fields`` that has its range;
give it a default if not every message has it. To add a message, write both classes and one line of the table.
A name that is not declared is refused, on both sides. Rows of the history hold only declared names, without
fields with ``exclude=True``. A reply's method ``against`` compares it with its hospital's greeting;
``Request.tensors`` declares its arrays.

A hospital reads a job with ``read_job(message, TrainJob)`` and its weights with ``read_tensors``; the server
reads replies only in ``requests.read``. Sizes, types and names are checked before a byte is decoded. A
refusal raises ``Refused``, a FedMergeError.
"""
