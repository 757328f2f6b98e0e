"""The shapes of bodies, for the OpenAPI document; what a rule means is read by `egress.policy.ruletext`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, RootModel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api.paging import instant
from egress.model import Rule
from egress.policy.ruletext import to_mapping
from egress.store.policy.ruleset import Hits, PolicyVersion, StoredRule
from egress.store.policy.tokens import Token

EXAMPLE: dict[str, Any] = {
    "action": "allow",
    "destination": "*.example.org",
    "agent": "train-*",
    "ports": [443],
    "app": "tls",
    "expires": "1h",
    "comment": "packages for the nightly run",
}
Port = int | str
STORED_ID = r"^[A-Za-z0-9][A-Za-z0-9._:~-]{0,199}$"  # a file's or sandbox's begins with its host's or agent's name
ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
APP = r"^[a-z0-9][a-z0-9_.+-]{0,31}$"


def _optional(description: str, pattern: str | None = None) -> Any:
    """A field that may be left out and has no default to write down."""
    return Field(default_factory=str, description=description, pattern=pattern)


class ProblemPlace(BaseModel):
    pointer: str | None = Field(None, description="JSON pointer into the body", examples=["#/ports/0"])
    parameter: str | None = Field(None, description="Name of a query, path or header parameter", examples=["limit"])
    detail: str = Field(description="What is wrong there, and what is right")


class ProblemDocument(BaseModel):
    """RFC 9457: what is wrong with a request, or why it cannot be served."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str = Field(description="The X-Request-Id of the request, which the log and the audit trail have too")
    errors: list[ProblemPlace] = []


class RuleFields(BaseModel):
    """A rule as the policy file has it. Deny beats allow beats the agent's default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    action: Literal["allow", "deny"]
    destination: str = Field(
        "any", description="any, an address, a CIDR, a name, `*.name` (one label more) or `**.name` (one or more)"
    )
    agent: str = Field("*", max_length=128, description="Glob over the agent's name, or `label:` and a glob")
    protocol: str | int = _optional("tcp, udp, icmp, … or a number; without it any")
    ports: list[Port] | Port = _optional("A port, a range like `8000-8100`, or a list of them; without it any")
    app: str = _optional("Application protocol: ssh, tls, http, dns, …; without it any", APP)
    exempt: list[str] = _optional("Signatures that an allow rule silences: `ssh.unusual-port`, `mining.*`")
    unnamed: bool = Field(False, description="A name rule: also where the bytes hide the name (ECH, no SNI)")
    expires: str = Field("forever", description="`once`, a duration (5m, 1h, 1d, 1w), an instant, or `forever`")
    comment: str = Field("", max_length=1000)
    author: str = Field("", max_length=128, description="Who asks for it; without it the caller")
    id: str = _optional("Without it a random one", ID)


class RuleBody(RootModel[dict[str, Any]]):
    """Any object; documented as `RuleFields`, and checked by the one reader that files and commands go through."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(RuleFields.__pydantic_core_schema__)


class RulePatch(RootModel[dict[str, Any]]):
    """RFC 7396: what is given replaces what is there, null removes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expires": "1d", "comment": None}]})


class RuleOut(RuleFields):
    """A rule in force."""

    id: str
    source: str = Field(description="allowlist, file (the policy file), or sandbox:NAME; only the first can be edited")
    host: str = Field(description="file, sandbox: only agents there are concerned; of the allowlist: empty, everywhere")
    created: str = Field(description="RFC 3339")
    added: int = Field(description="The policy version that brought it in this form")


class RuleInUse(RuleOut):
    """A rule in force and what it decided."""

    hits: int = Field(description="Flows that it decided")
    last_hit: str | None = Field(description="Start of the newest of them, RFC 3339")


class Import(BaseModel):
    """What an import did."""

    version: int = Field(description="Of the policy, now")
    added: int
    replaced: int
    removed: int
    unchanged: int


class PrunedRules(BaseModel):
    """The rules that were removed."""

    version: int
    removed: list[RuleOut]


class PolicyRule(RuleFields):
    """A rule as part of a version."""

    id: str
    created: str


class PolicyOut(BaseModel):
    """A version of the policy: all its rules, in the order in which those of a kind speak."""

    version: int
    rules: list[PolicyRule]


class VersionOut(BaseModel):
    version: int
    created: str
    actor: str
    added: int = Field(description="Rules that came with it; an edited one counts here and as removed")
    removed: int


class Changed(BaseModel):
    before: RuleOut
    after: RuleOut


class Diff(BaseModel):
    """What leads from one version to another."""

    model_config = ConfigDict(populate_by_name=True)

    from_: int = Field(alias="from")
    to: int
    added: list[RuleOut]
    removed: list[RuleOut]
    changed: list[Changed]


class Rollback(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"version": 17}]})

    version: int = Field(ge=1, lt=2**31, description="The allowlist becomes what it was then; a new version")


class TokenIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"name": "ci", "role": "editor", "agents": ["ci-*"], "expires": "30d"}]},
    )

    name: str = Field(min_length=1, max_length=128, description="Whose it is; shown in the audit trail")
    role: Literal["viewer", "approver", "editor", "admin", "gateway", "reporter"]
    agents: list[str] | None = Field(
        None, min_length=1, max_length=64, description="Globs of the agents it may concern; default: the caller's own"
    )
    expires: str = Field("forever", max_length=64, description="A duration (1h, 30d, 4w), an instant, or forever")


class TokenOut(BaseModel):
    id: str
    name: str
    role: str
    agents: list[str]
    created: str
    created_by: str
    expires: str = Field(description="RFC 3339, or forever")
    revoked_at: str | None
    last_used: str | None = Field(description="To the minute")


class TokenMade(TokenOut):
    token: str | None = Field(description="The secret, shown once; null where an Idempotency-Key repeats the request")


class AuditOut(BaseModel):
    """One change, bound to the one before it by its hash."""

    seq: int
    time: str
    actor: str
    request_id: str
    action: str
    target: str
    before: Any = Field(description="null: it was not there")
    after: Any = Field(description="null: it is gone")
    previous: str
    hash: str


class VerifiedOut(BaseModel):
    """How far the chain holds. Note `count` and `head` elsewhere: only so does it show when its end is cut off."""

    count: int
    head: str
    broken: int | None = Field(description="The first entry that does not hold; null: all do")
    why: str


def rule_out(stored: StoredRule) -> dict[str, object]:
    """RuleOut as plain JSON."""
    return to_mapping(stored.rule) | {
        "source": stored.source,
        "host": stored.host,
        "created": instant(stored.rule.created),
        "added": stored.added,
    }


def rule_in_use(stored: StoredRule, hits: Hits) -> dict[str, object]:
    """RuleInUse as plain JSON."""
    return rule_out(stored) | {"hits": hits.count, "last_hit": instant(hits.last)}


def policy_rule(rule: Rule) -> dict[str, object]:
    return to_mapping(rule) | {"created": instant(rule.created)}


def version_out(version: PolicyVersion) -> dict[str, object]:
    """VersionOut as plain JSON."""
    return {
        "version": version.version,
        "created": instant(version.created),
        "actor": version.actor,
        "added": version.added,
        "removed": version.removed,
    }


def token_out(token: Token) -> dict[str, object]:
    """TokenOut as plain JSON."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "agents": list(token.agents),
        "created": instant(token.created),
        "created_by": token.created_by,
        "expires": instant(token.expires_at) or "forever",
        "revoked_at": instant(token.revoked_at),
        "last_used": instant(token.last_used),
    }
