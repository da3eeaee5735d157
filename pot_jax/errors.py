"""The exception that means "the user can correct this", and how messages quote other texts."""


class UserError(ValueError):
    """A mistake in what the user gave: prompts, settings, files.

    Its message is one line that says what was expected, what came, and what to do. The command line
    prints that line and exits with code 2; from Python it is a `ValueError`.
    """


_LONGEST = 200  # characters of a foreign text that a message quotes


def shown(text: object) -> str:
    """Returns `text` in a form safe for a one-line message: escaped if needed, and truncated."""
    text = str(text)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def one_line(error: BaseException) -> str:
    """Returns the first line of another library's message in `error`, or the name of its class."""
    return (
        shown(next((line for line in str(error).splitlines() if line.strip()), ""))
        or type(error).__name__
    )
