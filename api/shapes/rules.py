"""The shapes of rules. They only document the fields; `egress.policy.ruletext` reads and checks a rule."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, RootModel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api.times import instant
from egress.policy.ruletext import to_mapping
from egress.store.policy.ruleset import Hits, StoredRule

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
STORED_ID = r"^[A-Za-z0-9][A-Za-z0-9._:~-]{0,199}$"  # ids of files and sandboxes are prefixed with the host or agent
ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
APP = r"^[a-z0-9][a-z0-9_.+-]{0,31}$"


def _optional(description: str, pattern: str | None = None) -> Any:
    """Declare an optional field whose default the OpenAPI document does not give."""
    return Field(default_factory=str, description=description, pattern=pattern)


class RuleFields(BaseModel):
    """A rule, as in the policy file. A deny rule beats allow rules, an allow rule beats the agent's default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    action: Literal["allow", "deny"]
    destination: str = Field(
        "any", description="any, an address, a CIDR, a name, `*.name` (one label more) or `**.name` (one or more)"
    )
    agent: str = Field("*", max_length=128, description="Glob over the agent's name, or `label:` and a glob")
    protocol: str | int = _optional("tcp, udp, icmp, … or a number; default: any")
    ports: list[Port] | Port = _optional("A port, a range like `8000-8100`, or a list of them; default: any")
    app: str = _optional("Application protocol: ssh, tls, http, dns, …; default: any", APP)
    exempt: list[str] = _optional("Signatures that an allow rule exempts: `ssh.unusual-port`, `mining.*`")
    unnamed: bool = Field(False, description="For a name: also match flows that hide it (no SNI)")
    private: bool = Field(
        False, description="For a name: also match addresses that are not global, or are the gateway's or an agent's"
    )
    expires: str = Field("forever", description="`once`, a duration (5m, 1h, 1d, 1w), an instant, or `forever`")
    comment: str = Field("", max_length=1000)
    author: str = Field("", max_length=128, description="The author of the rule; default: the caller")
    id: str = _optional("Default: a random id", ID)


class RuleBody(RootModel[dict[str, Any]]):
    """A JSON object, documented as `RuleFields` and checked by `egress.policy.ruletext`, as rules in files are."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(RuleFields.__pydantic_core_schema__)


class RulePatch(RootModel[dict[str, Any]]):
    """A JSON Merge Patch (RFC 7396): given fields replace present ones, null removes them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expires": "1d", "comment": None}]})


class RuleOut(RuleFields):
    """A rule in force."""

    id: str
    source: str = Field(description="allowlist, file (the policy file) or sandbox:NAME; only the allowlist is editable")
    host: str = Field(description="file, sandbox: the rule applies to agents of this host only; allowlist: empty")
    created: str = Field(description="RFC 3339")
    added: int = Field(description="The policy version that added the rule in this form")


class RuleInUse(RuleOut):
    """A rule in force, and its use."""

    hits: int = Field(description="Number of flows that it decided")
    last_hit: str | None = Field(description="Start of the newest of these flows, RFC 3339")


class ImportOut(BaseModel):
    """The result of an import, in numbers of rules."""

    version: int = Field(description="The policy's new version")
    added: int
    replaced: int
    removed: int
    unchanged: int


class PrunedRules(BaseModel):
    """The rules that were removed."""

    version: int
    removed: list[RuleOut]


def rule_out(stored: StoredRule) -> dict[str, object]:
    """Convert a rule to JSON types, as RuleOut."""
    return to_mapping(stored.rule) | {
        "source": stored.source,
        "host": stored.host,
        "created": instant(stored.rule.created),
        "added": stored.added,
    }


def rule_in_use(stored: StoredRule, hits: Hits) -> dict[str, object]:
    """Convert a rule and its hits to JSON types, as RuleInUse."""
    return rule_out(stored) | {"hits": hits.count, "last_hit": instant(hits.last)}
