"""/gateways: lists the hosts that share this database; deletes or renames a host whose gateway is not running."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse, Response

from api.auth import Admin, Viewer
from api.database import Store
from api.edits import Edits, Reply
from api.paging import Cursor, Limit, Page, decode, page
from api.shapes.agents import HOST
from api.shapes.gateways import GatewayOut, RenameIn, gateway_out
from egress.store.database.clock import clock
from egress.store.database.handles import Connection
from egress.store.policy import gateways, ruleset

router = APIRouter(prefix="/gateways", tags=["gateways"])

Host = Annotated[str, Path(pattern=HOST, description="Name of a host.")]


@router.get("", response_model=Page[GatewayOut], summary="Gateways, by host")
def list_gateways(_: Viewer, engine: Store, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Lists the gateway of each host, its state, and the number of policy versions that it is behind."""
    after = decode(cursor, str)
    with engine.connect() as connection:
        newest, (now, _skew) = ruleset.current(connection), clock(connection)
        found = gateways.listed(connection)
    later = [each for each in found if after is None or each.host > after[0]]
    shown, following = page(later, limit, lambda each: [each.host])
    return JSONResponse({"items": [gateway_out(each, now, newest) for each in shown], "next": following})


@router.delete("/{host}", status_code=204, summary="Delete a host that will not return")
def forget_gateway(host: Host, caller: Admin, edits: Edits) -> Response:
    """Deletes the host's agents, policy-file rules and pending holds; records are kept. 409 while its gateway runs."""
    caller.check_unlimited("a host")

    def change(connection: Connection) -> Reply:
        gateways.forget(connection, caller.actor, host, edits.ts)
        return Reply(204)

    return edits.commit(change)


@router.post("/{host}/rename", status_code=204, summary="Rename a host")
def rename_gateway(host: Host, body: RenameIn, caller: Admin, edits: Edits) -> Response:
    """Renames a host before its gateway starts under the new name. 409 while it runs, or if the new name is taken."""
    caller.check_unlimited("a host")

    def change(connection: Connection) -> Reply:
        gateways.rename(connection, caller.actor, host, body.name, edits.ts)
        return Reply(204)

    return edits.commit(change)
