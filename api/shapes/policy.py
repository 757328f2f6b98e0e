"""The shapes of policy versions and of the changes between them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from api.shapes.rules import RuleFields, RuleOut
from api.times import instant
from egress.model import Policy
from egress.policy.ruletext import to_mapping
from egress.store.policy.ruleset import PolicyVersion


class PolicyRule(RuleFields):
    """A rule of a version, with its id and time of creation."""

    id: str
    created: str


class PolicyOut(BaseModel):
    """A version of the policy: all its rules. Those of one action are in the order in which they are evaluated."""

    version: int
    rules: list[PolicyRule]


class VersionOut(BaseModel):
    """A version of the policy without its rules."""

    version: int
    created: str
    actor: str
    added: int = Field(description="Rules that it added; an edited rule counts as added and as removed")
    removed: int


class Changed(BaseModel):
    """A rule that has other fields in the later version."""

    before: RuleOut
    after: RuleOut


class Diff(BaseModel):
    """The changes from one version to another."""

    model_config = ConfigDict(populate_by_name=True)

    from_: int = Field(alias="from")
    to: int
    added: list[RuleOut]
    removed: list[RuleOut]
    changed: list[Changed]


class Rollback(BaseModel):
    """The version to roll back to."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"version": 17}]})

    version: int = Field(ge=1, lt=2**31, description="The version whose allowlist is restored, as a new version")


def policy_out(policy: Policy) -> dict[str, object]:
    """Convert a version to JSON types, as PolicyOut."""
    rules = [to_mapping(rule) | {"created": instant(rule.created)} for rule in policy.rules]
    return {"version": policy.version, "rules": rules}


def version_out(version: PolicyVersion) -> dict[str, object]:
    """Convert a version without its rules to JSON types, as VersionOut."""
    return {
        "version": version.version,
        "created": instant(version.created),
        "actor": version.actor,
        "added": version.added,
        "removed": version.removed,
    }
