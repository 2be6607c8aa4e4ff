"""The exception for mistakes that a user can mend."""


class UserError(ValueError):
    """Bad input. The message says what is wrong, its value, what is accepted and, where there is one, the command that mends it."""
