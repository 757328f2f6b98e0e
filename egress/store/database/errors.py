"""What a change to the stored policy, agents, tokens or approvals can fail of, besides wrong input."""

from __future__ import annotations

from egress.errors import EgressError


class ConflictError(EgressError):
    """What is there already forbids it. `target` is the id or name of that."""

    def __init__(self, text: str, target: str) -> None:
        super().__init__(text)
        self.target = target


class NotFoundError(EgressError):
    """There is no `target`."""

    def __init__(self, text: str, target: str) -> None:
        super().__init__(text)
        self.target = target
