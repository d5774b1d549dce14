"""Errors that end the program with one clear message instead of a traceback."""


class RunError(Exception):
    """A run that cannot go on; the message says why and where."""


class UserError(RunError):
    """Input that cannot be used; the message names the thing and what was expected, in a line or two."""


class OptionError(UserError):
    """The value of a command's option means nothing; the message names the option and what was expected."""


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, and the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
