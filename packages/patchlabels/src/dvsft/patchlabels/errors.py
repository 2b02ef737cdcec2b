"""The base of every error that a user can mend."""


class DvsftError(ValueError):
    """One line: what was found, what was expected, the command that cures it. The command `dvsft` prints it and exits
    with 2; anything else that is raised is a bug and keeps its traceback."""
