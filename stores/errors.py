"""Faults that a user can mend: every message says what, where, expected, got and what to do."""


class UserFault(Exception):
    """A mistake in a user's input, told in five parts; the shell prints it and exits with 2."""

    def __init__(self, what: str, *, where: object, expected: object, got: object, fix: str):
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        super().__init__(
            f"{what}\n  where:    {where}\n  expected: {expected}\n  got:      {got}\n"
            f"  fix:      {fix}"
        )


class StoreFault(UserFault, OSError):
    """A store, index or manifest on disk that cannot be used as it is."""


class ShapeFault(UserFault, ValueError):
    """Frame counts or sizes that the VAE and the transformer cannot take."""
