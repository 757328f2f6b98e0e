"""The exceptions of egress."""


class EgressError(Exception):
    """An error that a person can act on: its text is one line, shown without a traceback.

    `exit_code` follows the CLI's convention: 1 an error, 2 wrong usage or input.
    """

    exit_code = 1


class InputError(EgressError):
    """The caller's input (argument, file, policy, configuration) is wrong; nothing was changed."""

    exit_code = 2


class MalformedError(Exception):
    """The bytes violate their protocol; `args[0]` says how, in a few words."""
