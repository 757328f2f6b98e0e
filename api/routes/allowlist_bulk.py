"""/allowlist/import and /allowlist/export: the whole allowlist as one document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import etags
from api.auth import Caller, Editor, Viewer
from api.database import Store
from api.documents import DOCUMENT, read_rules
from api.edits import Edits, Reply
from api.problems import Place, ProblemError, at
from api.shapes.rules import ImportOut
from egress.model import Rule
from egress.policy.file import dump_json, dump_yaml
from egress.store.database.errors import ConflictError
from egress.store.database.handles import Connection
from egress.store.policy import ruleset
from egress.store.policy.edits import Edit

router = APIRouter(prefix="/allowlist", tags=["allowlist"])


_ALL = 2**31 - 1  # no limit


class ImportMode(StrEnum):
    """The effect of an import on the allowlist."""

    ADD = "add"  # an id that is taken is a conflict
    MERGE = "merge"  # a rule of the same id is replaced
    REPLACE = "replace"  # as merge; rules that the document does not have are removed


@router.get(
    "/export",
    summary="The allowlist as a document that can be imported",
    response_class=Response,
    responses={200: {"content": DOCUMENT["requestBody"]["content"]}},
)
def export_rules(
    _: Viewer,
    engine: Store,
    format: Annotated[Literal["json", "yaml"], Query(description="Format of the document.")] = "json",  # noqa: A002 - its name
) -> Response:
    """The document has the rules of the allowlist only, not those of policy files and sandboxes."""
    with engine.connect() as connection:
        listed = [each.rule for each in _allowlist(connection)]
        tag = etags.etag(ruleset.current(connection))
    write = dump_json if format == "json" else dump_yaml
    return Response(write(listed), media_type=f"application/{format}", headers={"ETag": tag})


@router.post(
    "/import",
    response_model=ImportOut,
    summary="Import rules: all or none, with every mistake reported",
    openapi_extra=DOCUMENT,
)
def import_rules(
    request: Request,
    caller: Editor,
    edits: Edits,
    mode: Annotated[
        ImportMode,
        Query(description="add: ids must be new; merge: replace rules of the same id; replace: also remove all others"),
    ] = ImportMode.ADD,
) -> Response:
    """An import makes one version. N in `#/rules/N` of an error counts from 0. If-Match takes the policy's ETag."""
    author = caller.as_author()
    read = read_rules(request, edits.ts)
    listed = [replace(rule, created=edits.ts, author=rule.author or author) for rule in read]

    def change(connection: Connection) -> Reply:
        edits.match(etags.etag(ruleset.current(connection)))
        plan = _plan(connection, listed, mode)
        _check_scope(caller, listed, plan)
        edit = Edit(connection, caller.actor, edits.ts)
        edit.remove(each.rule.id for each in plan.removed)
        try:
            for rule in plan.replaced:
                edit.replace(rule.id, rule)
            edit.add(plan.added)
        except ConflictError as conflict:
            raise _conflicts(listed, {conflict.target: str(conflict)}) from None
        counts = {"added": len(plan.added), "replaced": len(plan.replaced), "removed": len(plan.removed)}
        body = {"version": edit.version, **counts, "unchanged": plan.unchanged}
        return Reply(200, body, etags.etag(edit.version))

    return edits.commit(change)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The changes that an import makes."""

    added: list[Rule]
    replaced: list[Rule]
    removed: list[ruleset.StoredRule]
    touched: list[ruleset.StoredRule]  # the stored rules that are replaced or removed
    unchanged: int


def _plan(connection: Connection, listed: list[Rule], mode: ImportMode) -> _Plan:
    """Compare the document with the rules in force. Raises ProblemError (409) that lists every rule with a taken id."""
    live = {each.rule.id: each for each in ruleset.list_rules(connection, ruleset.RuleFilter(), None, _ALL)}
    taken = {
        rule.id: f"{rule.id} is the id of a rule {'in force' if mode is ImportMode.ADD else 'outside the allowlist'}"
        for rule in listed
        if rule.id in live and (mode is ImportMode.ADD or live[rule.id].source != ruleset.ALLOWLIST)
    }
    if taken:
        raise _conflicts(listed, taken)
    known = [rule for rule in listed if rule.id in live]
    replaced = [rule for rule in known if _differs(rule, live[rule.id].rule)]
    given = {rule.id for rule in listed}
    old = [each for each in live.values() if each.source == ruleset.ALLOWLIST and each.rule.id not in given]
    removed = old if mode is ImportMode.REPLACE else []
    touched = [live[rule.id] for rule in replaced] + removed
    return _Plan(
        [rule for rule in listed if rule.id not in live], replaced, removed, touched, len(known) - len(replaced)
    )


def _differs(new: Rule, old: Rule) -> bool:
    """Return True if two rules differ in more than their creation time and position."""
    return replace(new, created=old.created, position=old.position) != old


def _check_scope(caller: Caller, listed: list[Rule], plan: _Plan) -> None:
    """Check that all changes are within the caller's scope. Raises ProblemError (403) that lists every rule outside."""
    if caller.unlimited:
        return
    places: list[Place] = [
        at(f"rules/{index}/agent", f"{rule.agent} is outside your scope")
        for index, rule in enumerate(listed)
        if not caller.covers(rule.agent)
    ]
    places += [
        at("", f"rule {each.rule.id} for agent {each.rule.agent} is outside your scope")
        for each in plan.touched
        if not caller.covers(each.rule.agent)
    ]
    if places:
        raise ProblemError(403, f"nothing was imported: your scope is {', '.join(caller.agents)}", errors=places)


def _conflicts(listed: list[Rule], reasons: dict[str, str]) -> ProblemError:
    """Make a problem from reasons by rule id. A reason for an id that is not `listed` concerns the whole document."""
    places = [at(f"rules/{index}/id", reasons[rule.id]) for index, rule in enumerate(listed) if rule.id in reasons]
    named = {rule.id for rule in listed}
    places += [at("", reason) for rule_id, reason in reasons.items() if rule_id not in named]
    return ProblemError(409, "nothing was imported: it conflicts with rules in force", errors=places)


def _allowlist(connection: Connection) -> tuple[ruleset.StoredRule, ...]:
    return ruleset.list_rules(connection, ruleset.RuleFilter(source=ruleset.ALLOWLIST), None, _ALL)
