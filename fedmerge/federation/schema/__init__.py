"""One schema for all that comes from outside, in both directions: what a message may hold, and nothing else.

``messages`` is the table: for each message type what its job says and what its answer says, each a pydantic
class in ``jobs`` or ``answers``, of types from ``fields``. ``tensors`` declares the weights that belong to a
message and reads them, ``networks`` derives them from a network's description, ``reading`` takes a message
apart, ``text`` cleans words.

To add a field, write it into the class of its job or answer, with a type from ``fields`` that says its range;
give it a default if not every message has it. To add a message, write both classes and one line of the table.
A name that is not declared is refused, on both sides. Rows of the history hold declared names alone; a field
with ``exclude=True`` stays out of them. What an answer must agree with, its hospital's greeting, is said by
its method ``against``; what the arrays of an answer must be, by ``Request.tensors``.

A hospital reads a job with ``read_job(message, TrainJob)`` and its weights with ``read_tensors``; the server
reads answers in ``requests.read`` alone. Sizes, types and names are checked before a byte is decoded. What is
refused raises ``Refused``, a FedMergeError.
"""
