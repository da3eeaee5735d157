"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in what the user gave: prompts, settings, files.

    Its message is one line that says what was expected, what came, and what to do. The command line
    prints that line and exits with code 2; from Python it is a `ValueError`.
    """
