"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """Bad input: the message names what was wrong, its value, what is accepted and, where there is one, the command that mends it."""
