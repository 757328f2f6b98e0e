"""/agents: attach, change, quarantine and detach the guarded agents."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import JSONResponse, Response

from api import etags
from api.auth import PREFIX, Admin, Caller, Editor, Viewer, ViewerOrGateway
from api.database import Settings, Store
from api.edits import Edits, Reply
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import ProblemError, wrong_field
from api.shapes.agents import AgentIn, AgentOut, AgentPatch, agent_out
from egress.model import Action, Agent, Budget, Mode
from egress.policy.budgettext import check_budgets, parse_budget
from egress.store.database.handles import Connection
from egress.store.policy import agents
from egress.store.policy.agents import StoredAgent

router = APIRouter(prefix="/agents", tags=["agents"])

Name = Annotated[str, Path(max_length=64, description="Name of an agent.")]
_DEFAULTS = {"allow": Action.ACCEPT, "deny": Action.REJECT}


@router.get("", response_model=Page[AgentOut], summary="Agents, by name")
def list_agents(
    caller: ViewerOrGateway,
    engine: Store,
    host: Annotated[str | None, Query(max_length=64, description="Only agents attached on this host.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Lists attached agents and the live sandboxes of `egress run`, on all hosts."""
    after = decode(cursor, str)
    with engine.connect() as connection:
        found = [each for each in agents.list_agents(connection, host) if caller.sees(each.agent.name)]
    found.sort(key=lambda each: each.agent.name)  # in the cursor's order; the database's collation may differ
    later = [each for each in found if after is None or each.agent.name > after[0]]
    shown, following = page(later, limit, lambda each: [each.agent.name])
    return JSONResponse({"items": [agent_out(each) for each in shown], "next": following})


@router.get("/{name}", response_model=AgentOut, summary="One agent")
def get_agent(name: Name, caller: Viewer, engine: Store) -> Response:
    with engine.connect() as connection:
        found = _get_or_404(connection, caller, name)
    return JSONResponse(agent_out(found), headers={"ETag": _tag(found)})


@router.post("", response_model=AgentOut, status_code=201, summary="Attach an agent")
def create_agent(body: AgentIn, caller: Admin, config: Settings, edits: Edits) -> Response:
    """The interface may not exist yet: until then the agent cannot send anything, and `egress doctor` reports it."""
    caller.check(body.name)
    _check_value(body.kind, body.value)
    agent = Agent(
        name=body.name,
        networks=_networks(body.networks),
        mode=Mode(body.mode),
        default=_DEFAULTS[body.default],
        labels=_labels(body.labels),
        budgets=_budgets(body.budgets),
    )

    def change(connection: Connection) -> Reply:
        attached = StoredAgent(agent, body.kind, body.value, host=body.host or config.host_name)
        agents.add_agent(connection, caller.actor, attached, edits.ts)
        made = _get_or_404(connection, caller, body.name)  # read back: the time is stored to the microsecond
        return Reply(201, agent_out(made), _tag(made), f"{PREFIX}/agents/{body.name}")

    return edits.commit(change)


@router.patch("/{name}", response_model=AgentOut, summary="Change mode, default, labels or budgets")
def patch_agent(name: Name, body: AgentPatch, caller: Editor, edits: Edits) -> Response:
    """Changes settings; omitted fields stay. Every worker applies them in a fraction of a second, to live flows too."""

    def change(connection: Connection) -> Reply:
        edits.match(_tag(_get_or_404(connection, caller, name)))
        new = agents.update_agent(
            connection,
            caller.actor,
            name,
            mode=None if body.mode is None else Mode(body.mode),
            default=None if body.default is None else _DEFAULTS[body.default],
            labels=None if body.labels is None else _labels(body.labels),
            budgets=None if body.budgets is None else _budgets(body.budgets),
            ts=edits.ts,
        )
        return Reply(200, agent_out(new), _tag(new))

    return edits.commit(change)


@router.delete("/{name}", status_code=204, summary="Detach an agent, which is unguarded from then on")
def delete_agent(name: Name, caller: Admin, edits: Edits) -> Response:
    def change(connection: Connection) -> Reply:
        edits.match(_tag(_get_or_404(connection, caller, name)))
        agents.remove_agent(connection, caller.actor, name, edits.ts)
        return Reply(204)

    return edits.commit(change)


@router.post("/{name}/quarantine", response_model=AgentOut, summary="Cut an agent off, in any mode")
def quarantine_agent(name: Name, caller: Editor, edits: Edits) -> Response:
    return _set_quarantine(name, caller, edits, quarantined=True)


@router.post("/{name}/release", response_model=AgentOut, summary="End a quarantine")
def release_agent(name: Name, caller: Editor, edits: Edits) -> Response:
    return _set_quarantine(name, caller, edits, quarantined=False)


def _set_quarantine(name: str, caller: Caller, edits: Edits, *, quarantined: bool) -> Response:
    def change(connection: Connection) -> Reply:
        edits.match(_tag(_get_or_404(connection, caller, name)))
        new = agents.update_agent(connection, caller.actor, name, quarantined=quarantined, ts=edits.ts)
        return Reply(200, agent_out(new), _tag(new))

    return edits.commit(change)


def _get_or_404(connection: Connection, caller: Caller, name: str) -> StoredAgent:
    found = agents.agent(connection, name) if caller.sees(name) else None
    if found is None:
        raise ProblemError(404, f"there is no agent {name[:64]!r}, or it is outside your scope")
    return found


def _budgets(texts: list[str]) -> tuple[Budget, ...]:
    budgets = []
    for number, text in enumerate(texts):
        try:
            budgets.append(parse_budget(text))
        except ValueError as error:
            raise wrong_field(f"budgets/{number}", f"{text[:60]!a} {error}") from None
    try:
        check_budgets(budgets)
    except ValueError as error:
        raise wrong_field("budgets", f"one {error}") from None
    return tuple(budgets)


def _labels(texts: list[str]) -> tuple[str, ...]:
    for number, text in enumerate(texts):
        if not text or not text.isprintable() or len(text) > agents.MAX_LABEL:
            raise wrong_field(f"labels/{number}", f"must be 1 to {agents.MAX_LABEL} printable characters")
    return tuple(texts)


def _networks(texts: list[str]) -> tuple[str, ...]:
    for number, text in enumerate(texts):
        if (wrong := _wrong_network(text)) is not None:
            raise wrong_field(f"networks/{number}", wrong)
    return tuple(texts)


def _check_value(kind: str, value: str) -> None:
    """Check the value of an attachment: CIDR@interface for the kind `cidr`, else the name of a namespace or interface.

    The gateway's host alone can check that it exists. Raises ProblemError (422).
    """
    if not value or not value.isprintable():
        raise wrong_field("value", f"must be the name of the {kind} to attach")
    if kind == "cidr":
        network, _, interface = value.rpartition("@")
        if not interface or _wrong_network(network) is not None:
            raise wrong_field("value", "must be CIDR@interface, such as 10.0.7.0/24@br-lab")


def _wrong_network(text: str) -> str | None:
    """Return the reason why a text is not a valid CIDR; None if it is one."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return str(error)
    return None


def _tag(stored: StoredAgent) -> str:
    """Return the ETag of an agent: a hash of its fields."""
    text = json.dumps(agent_out(stored), sort_keys=True)
    return etags.etag(hashlib.sha256(text.encode()).hexdigest()[:16])
