"""Processes that end in the middle of their work."""


class Died(BaseException):
    """A process that ends here."""
