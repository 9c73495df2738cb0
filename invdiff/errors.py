"""The one exception that means "what was given cannot be used"."""


class InputError(ValueError):
    """A mistake in what the user gave: a file, a key, a shape, a value.

    The message is one line that names the thing, what was found and what was expected.
    Command lines print it without a traceback and exit with status 2.
    """
