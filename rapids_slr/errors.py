"""The two ways a command fails on purpose. Both carry one message: what was wrong, where, and what to do."""


class InputError(ValueError):
    """Arguments, a spec, data or arrays that cannot be used. Exit code 2."""


class RunError(RuntimeError):
    """A run that had to stop: non-finite loss, full disk, no memory. Exit code 1."""
