"""The few errors of the project. Everything a person can meet is one line that says what to do."""


class EgressError(Exception):
    """An error a person can act on: its text is one line, shown without a traceback.

    `exit_code` follows the CLI's convention: 1 an error, 2 wrong usage or input.
    """

    exit_code = 1


class InputError(EgressError):
    """What the caller handed in (argument, file, policy, config) is wrong; nothing was changed."""

    exit_code = 2


class MalformedError(Exception):
    """The bytes broke the protocol; `args[0]` says how, in a few words."""
