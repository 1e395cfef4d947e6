"""What the user is told while something lasts: once."""

from __future__ import annotations

from collections.abc import Callable


class Notices:
    """Passes a message on once for each subject, until the subject is forgotten: a fault that has ended.

    Args:
        say: receives the messages.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._said: set[str] = set()

    def once(self, subject: str, message: str) -> None:
        """Say it, unless something was said of the subject already."""
        if subject not in self._said:
            self._said.add(subject)
            self.say(message)

    def forget(self, *subjects: str) -> None:
        """The next message on these is said again."""
        self._said.difference_update(subjects)
