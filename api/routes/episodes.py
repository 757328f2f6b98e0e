"""/episodes: the tool calls of an episode in order, with the flows that began during each and between them."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import JSONResponse, Response

from api.auth import Viewer
from api.database import Store
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import wrong_parameter
from api.records import not_found
from api.shapes.steps import EpisodeOut, EpisodeStoryOut
from api.times import Since, moment
from egress.store.query import episodes
from egress.store.query.storyjson import episode_mapping, story_mapping
from egress.store.recording.steps import MAX_ID

router = APIRouter(prefix="/episodes", tags=["steps"])

Agent = Annotated[str, Query(max_length=128, description="Name or glob.")]


@router.get("", response_model=Page[EpisodeOut], summary="Episodes, by their first step, newest first")
def list_episodes(
    caller: Viewer, engine: Store, agent: Agent = "", since: Since = None, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """`since` selects episodes with a step that was running at that time or later."""
    before = decode(cursor, float, str, str)
    begin = moment("since", since, time.time())
    with engine.connect() as connection:
        found = episodes.listed(
            connection, agent=agent, since=begin, scope=caller.agents, before=before, limit=limit + 1
        )
    shown, following = page(found, limit, lambda each: [each.start, each.agent, each.episode])
    return JSONResponse({"items": [episode_mapping(each) for each in shown], "next": following})


@router.get("/{episode:path}", response_model=EpisodeStoryOut, summary="One episode, step by step")
def get_episode(
    episode: Annotated[str, Path(max_length=MAX_ID, description="The episode's id, from the framework.")],
    caller: Viewer,
    engine: Store,
    agent: Annotated[str, Query(max_length=64, description="The agent, if several have an episode of this id.")] = "",
) -> Response:
    """A part lists at most ten flows, among them refused ones and ones with findings; `/flows?q=step:ID` lists all."""
    with engine.connect() as connection:
        whose = [name for name in episodes.agents_of(connection, episode) if caller.sees(name)]
        chosen = [name for name in whose if not agent or name == agent]
        if not chosen:
            raise not_found("episode", ascii(episode)[1:-1])
        if len(chosen) > 1:
            raise wrong_parameter("agent", f"several agents have an episode of this id: {', '.join(chosen[:20])}", 409)
        return JSONResponse(story_mapping(episodes.episode_story(connection, chosen[0], episode)))
