"""Errors that end the program with one clear message instead of a traceback."""


class RunError(Exception):
    """A run that cannot go on; the message says why and where."""


class UserError(RunError):
    """Input that cannot be used; the message names the thing and what was expected, in a line or two."""
