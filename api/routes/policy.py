"""/policy: the numbered versions of the policy, each with all rules in force."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import JSONResponse, Response

from api import etags
from api.auth import Editor, Viewer, ViewerOrGateway
from api.database import Settings, Store
from api.edits import Edits, Reply
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import ProblemError
from api.routes.simulate import Simulation
from api.shapes.policy import Diff, PolicyOut, Rollback, VersionOut, policy_out, version_out
from api.shapes.questions import SimulationOut
from api.shapes.rules import rule_out
from egress.model import Policy
from egress.store.database.handles import Connection
from egress.store.policy import ruleset
from egress.store.policy.edits import Edit

router = APIRouter(prefix="/policy", tags=["policy"])

Version = Annotated[int, Path(ge=0, lt=2**31, description="Number of a version.")]
IfNoneMatch = Annotated[str | None, Header(description="Respond with 304 if this is still the ETag.")]


@router.get("/current", response_model=PolicyOut, summary="The policy in force")
def current_policy(_: ViewerOrGateway, engine: Store, if_none_match: IfNoneMatch = None) -> Response:
    """Returns the rules of every source, those of each action in evaluation order. Version 0 has no rules."""
    with engine.connect() as connection:
        tag = etags.etag(ruleset.current(connection))
        if (same := etags.not_modified(if_none_match, tag)) is not None:
            return same
        policy = ruleset.snapshot(connection) or Policy()
    return JSONResponse(policy_out(policy), headers={"ETag": etags.etag(policy.version)})


@router.get("/versions", response_model=Page[VersionOut], summary="Versions, newest first")
def list_versions(_: Viewer, engine: Store, limit: Limit = 100, cursor: Cursor = None) -> Response:
    after = decode(cursor, int)
    with engine.connect() as connection:
        found = ruleset.versions(connection, after[0] if after else None, limit + 1)
    shown, following = page(found, limit, lambda each: [each.version])
    return JSONResponse({"items": [version_out(each) for each in shown], "next": following})


@router.get("/versions/{version}", response_model=PolicyOut, summary="The policy as it was in a version")
def get_version(_: Viewer, engine: Store, version: Version) -> Response:
    with engine.connect() as connection:
        policy = _get_or_404(connection, version)
    return JSONResponse(policy_out(policy), headers={"ETag": etags.etag(version)})


@router.post(
    "/versions/{version}/replay", response_model=SimulationOut, summary="Verdicts that a version would have changed"
)
def replay_version(caller: Editor, engine: Store, config: Settings, version: Version, wanted: Simulation) -> Response:
    """Re-judges the stored flows by the rules of that version, as /simulate does. Nothing is changed."""
    caller.check_unlimited("a simulation")
    with engine.connect() as connection:
        policy, bound = _get_or_404(connection, version), ruleset.bound(connection, version)
    return wanted.answer(engine, config, caller, policy.rules, bound)


@router.get("/diff", response_model=Diff, summary="The changes from one version to another")
def diff_versions(
    _: Viewer,
    engine: Store,
    from_: Annotated[int, Query(alias="from", ge=0, lt=2**31, description="A version; 0 has no rules.")],
    to: Annotated[int | None, Query(ge=0, lt=2**31, description="A version; default: the current one.")] = None,
) -> Response:
    with engine.connect() as connection:
        until = ruleset.current(connection) if to is None else to
        found = ruleset.diff(connection, from_, until)
    changed = [{"before": rule_out(was), "after": rule_out(now)} for was, now in found.changed]
    added, removed = ([rule_out(each) for each in side] for side in (found.added, found.removed))
    return JSONResponse({"from": from_, "to": until, "added": added, "removed": removed, "changed": changed})


@router.post("/rollback", response_model=VersionOut, summary="Restore the allowlist of a version")
def roll_back(body: Rollback, caller: Editor, edits: Edits) -> Response:
    """Makes a new version. Rules of policy files and sandboxes do not change. If-Match takes the policy's ETag."""
    caller.check_unlimited("a rollback")

    def change(connection: Connection) -> Reply:
        edits.match(etags.etag(ruleset.current(connection)))
        edit = Edit(connection, caller.actor, edits.ts)
        edit.restore(body.version)
        now = ruleset.versions(connection, None, 1)[0]
        return Reply(200, version_out(now), etags.etag(edit.version))

    return edits.commit(change)


def _get_or_404(connection: Connection, version: int) -> Policy:
    """Return a version of the policy. Raises ProblemError (404) if it does not exist."""
    policy = ruleset.snapshot(connection, version) if version else Policy()
    if policy is None:
        newest = ruleset.current(connection)
        raise ProblemError(404, f"there is no version {version} of the policy; the newest is {newest}")
    return policy
