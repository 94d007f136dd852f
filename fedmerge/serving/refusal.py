"""A call that is not answered: a status of HTTP, and a sentence that says what to do."""

from __future__ import annotations


class Refusal(Exception):
    """A call is refused. status: of HTTP. sentence: what is wrong, where, and what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
