"""The one exception that a user is meant to read."""

__all__ = ["UserError"]


class UserError(Exception):
    """A fault in what the user gave: one line that names the file, row, column or value.

    The command line prints the message alone and ends with exit code 2. Nothing is written
    before it is raised. Messages say what is allowed, and never quote a film's content.
    """
