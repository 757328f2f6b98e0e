"""The policy in the database: editing it (`egress.store.edits`) and reading it (`egress.store.ruleset`)."""

from __future__ import annotations

from egress.store.edits import Edit
from egress.store.ruleset import (
    ALLOWLIST,
    FILE,
    Hits,
    PolicyDiff,
    PolicyVersion,
    RuleFilter,
    StoredRule,
    bound,
    changes,
    current,
    diff,
    hits,
    list_rules,
    made,
    rule,
    rule_at,
    snapshot,
    spent,
    unused,
    versions,
)

__all__ = [
    "ALLOWLIST",
    "FILE",
    "Edit",
    "Hits",
    "PolicyDiff",
    "PolicyVersion",
    "RuleFilter",
    "StoredRule",
    "bound",
    "changes",
    "current",
    "diff",
    "hits",
    "list_rules",
    "made",
    "rule",
    "rule_at",
    "snapshot",
    "spent",
    "unused",
    "versions",
]
