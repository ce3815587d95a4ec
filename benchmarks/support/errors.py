"""Why there are no figures: something is missing, or something answered wrongly."""

from __future__ import annotations


class Unavailable(Exception):
    """The proxy or an origin cannot be run here; the message says what is missing."""


class WrongAnswer(Exception):
    """A proxy or an origin did not do what it has to do: there is nothing to time."""


class Refused(WrongAnswer):
    """The tunnel or the request was not granted. `answer` is what came instead, empty when the connection was just closed."""

    def __init__(self, message: str, answer: bytes) -> None:
        super().__init__(message)
        self.answer = answer
