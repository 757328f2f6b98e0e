"""The policy in force: the rules of the policy file and of each sandbox's own file, numbered by the database."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import sqlalchemy as sa

from egress.config import POLICY_FILE, Config
from egress.errors import EgressError
from egress.model import Policy, Rule
from egress.policyfile import load_policy
from egress.store.database import explain
from egress.store.policies import record_policy


class Policies:
    """`current` is what workers judge by. Methods that change it may raise EgressError, and then leave it as it was."""

    def __init__(self, config: Config, file: Path | None) -> None:
        self.current = Policy()
        self._file = file or config.policy
        self._base: tuple[Rule, ...] = ()
        self._sandboxes: dict[str, tuple[Rule, ...]] = {}

    def load(self, database: sa.Engine) -> None:
        """Read the file for the first time."""
        self._database = database
        self._base = self._read()
        self._renew("gateway start")

    def reload(self) -> bool:
        """Read the file again; True if other rules are in force now."""
        self._base = self._read()
        return self._renew("gateway reload")

    def add(self, name: str, rules: tuple[Rule, ...]) -> bool:
        """A sandbox's own rules, bound to it whatever agent they name."""
        self._sandboxes[name] = tuple(dataclasses.replace(rule, agent=name, id=f"{name}:{rule.id}") for rule in rules)
        return self._renew(f"sandbox {name}")

    def discard(self, name: str) -> bool:
        return self._sandboxes.pop(name, None) is not None and self._renew(f"end of sandbox {name}")

    def _read(self) -> tuple[Rule, ...]:
        if self._file is None and not POLICY_FILE.exists():
            return ()
        return load_policy(self._file or POLICY_FILE)

    def _renew(self, actor: str) -> bool:
        rules = self._base + tuple(rule for own in self._sandboxes.values() for rule in own)
        if rules == self.current.rules and self.current.version:
            return False
        try:
            version, _ = record_policy(self._database, rules, actor, time.time())
        except sa.exc.DBAPIError as error:
            raise EgressError(f"cannot write the policy into the database: {explain(error)}") from None
        self.current = Policy(version, rules)
        return True
