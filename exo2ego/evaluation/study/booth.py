"""The polling booth: the web application in which participants compare and vote.

GET  /s/<token>                       instructions, or thanks after submitting
GET  /s/<token>/<n>                   sample n of the participant's own order
GET  /s/<token>/<n>/<panel>.mp4       one of its three videos: reference, blue or red
POST /s/<token>/<n>                   choice=blue|red|none
GET  /s/<token>/review, POST /s/<token>/submit

No request names a file, so none can lead outside of the study; and no address, header or length
depends on which method a video is from.
"""

import asyncio
import re
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from exo2ego.evaluation.study.ballots import CHOICES, Ballots, BallotSubmitted, Choice
from exo2ego.evaluation.study.blinding import Row, rows_for
from exo2ego.evaluation.study.byte_range import video_response
from exo2ego.evaluation.study.folder import Study
from exo2ego.evaluation.study.guard import Guarded
from exo2ego.evaluation.study.pages import STATIC, Pages, static_file

MOST_BODY_BYTES = 256
"""Of a vote: `choice=blue` and room to spare."""
BODY_SECONDS = 10.0
"""How long the body of a vote may take to arrive."""
PROBLEMS = {
    400: ("This request is not understood", "Please go back and try again."),
    404: ("Nothing here", "Please use the personal link that you were given, all of it."),
    405: ("Nothing here", "Please use the personal link that you were given."),
    408: ("That took too long", "Please go back and try again."),
    409: ("Already submitted", "Your responses are recorded and can no longer be changed."),
    413: ("That is too much", "An answer is one word. Please go back and try again."),
    503: ("Not saved", "The server could not save this just now. Please go back and try again."),
}
"""What participants are told, by status."""


@dataclass(frozen=True)
class Visit:
    """A request by somebody who was invited."""

    token: str
    is_submitted: bool
    rows: list[Row]


class Booth:
    """What the requests share: the study, its videos by name, and the ballot box."""

    def __init__(self, study: Study, videos: dict[str, bytes], ballots: Ballots):
        self.videos, self.ballots, self.pages = videos, ballots, Pages()
        self.rows_for = lru_cache(maxsize=1024)(lambda token: rows_for(study, token))

    async def welcome(self, request: Request) -> Response:
        """Instructions; thanks to those who have submitted."""
        visit = self._visit(request)
        if visit.is_submitted:
            return _page(self.pages.thanks(self._choices(visit)))
        return _page(self.pages.instructions(visit.token, self._choices(visit)))

    async def show(self, request: Request) -> Response:
        """One sample."""
        visit = self._visit(request)
        number = _number(request, visit)
        if visit.is_submitted:
            return _go(visit.token)
        return _page(self.pages.sample(visit.token, number, self._choices(visit)))

    async def vote(self, request: Request) -> Response:
        """Saves an answer, then leads to the next sample, or to the review after the last."""
        visit = self._visit(request)
        number = _number(request, visit)
        choice = _choice(await _body(request))
        row = visit.rows[number - 1]
        blue = row.videos["blue"]
        try:
            await run_in_threadpool(self.ballots.cast, visit.token, row.sample_id, choice, blue)
        except BallotSubmitted:
            raise HTTPException(409) from None
        return _go(visit.token, number + 1 if number < len(visit.rows) else "review")

    async def video(self, request: Request) -> Response:
        """One of the three videos of a sample."""
        visit = self._visit(request)
        row = visit.rows[_number(request, visit) - 1]
        panel = request.path_params["panel"]
        if panel not in row.videos:
            raise HTTPException(404)
        return video_response(self.videos[row.videos[panel]], request.headers.get("range"))

    async def review(self, request: Request) -> Response:
        """All answers and gaps, and the button that submits."""
        visit = self._visit(request)
        if visit.is_submitted:
            return _go(visit.token)
        return _page(self.pages.review(visit.token, self._choices(visit)))

    async def submit(self, request: Request) -> Response:
        """Closes the ballot, with or without gaps."""
        visit = self._visit(request)
        await _body(request)
        await run_in_threadpool(self.ballots.submit, visit.token)
        return _go(visit.token)

    async def static(self, request: Request) -> Response:
        """Style, script and icon."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        headers = {"cache-control": "max-age=3600"}
        return Response(static_file(name), media_type=STATIC[name], headers=headers)

    async def problem(self, request: Request, problem: Exception) -> Response:
        """A page that says what went wrong."""
        status = problem.status_code if isinstance(problem, HTTPException) else 503
        title, about = PROBLEMS.get(status, PROBLEMS[400])
        token = request.path_params.get("token") if status not in (404, 405) else None
        headers = getattr(problem, "headers", None)
        return _page(self.pages.problem(title, about, token), status, headers)

    def _visit(self, request: Request) -> Visit:
        """Who asks. Raises HTTPException 404 if the token is nobody's.

        Reading takes some 20 microseconds, less than handing it to a thread would.
        """
        token = request.path_params["token"]
        participant = self.ballots.find(token)
        if participant is None:
            raise HTTPException(404)
        return Visit(token, participant.submitted_at is not None, self.rows_for(token))

    def _choices(self, visit: Visit) -> list[Choice | None]:
        """The participant's answers so far, by row."""
        chosen = self.ballots.choices(visit.token)
        return [chosen.get(row.sample_id) for row in visit.rows]


def make_app(booth: Booth) -> Guarded:
    """The application that a server runs."""
    routes = [
        Route("/static/{name}", booth.static),
        Route("/s/{token}", booth.welcome),
        Route("/s/{token}/review", booth.review),
        Route("/s/{token}/submit", booth.submit, methods=["POST"]),
        Route("/s/{token}/{number}", booth.show),
        Route("/s/{token}/{number}", booth.vote, methods=["POST"]),
        Route("/s/{token}/{number}/{panel}.mp4", booth.video),
    ]
    handlers = {HTTPException: booth.problem, sqlite3.Error: booth.problem}
    return Guarded(Starlette(routes=routes, exception_handlers=handlers))


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(html, status, headers=(headers or {}) | {"cache-control": "no-store"})


def _go(token: str, page: int | str = "") -> RedirectResponse:
    """To a page, by GET."""
    return RedirectResponse(f"/s/{token}/{page}".rstrip("/"), status_code=303)


def _number(request: Request, visit: Visit) -> int:
    """Number of the sample asked for. Raises HTTPException 404 if there is no such."""
    text = request.path_params["number"]
    if re.fullmatch("[1-9][0-9]{0,5}", text) and int(text) <= len(visit.rows):
        return int(text)
    raise HTTPException(404)


async def _body(request: Request) -> bytes:
    """The body of a request, if it is short and comes soon. Raises HTTPException 413, 408, 400."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BODY_BYTES:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    except ClientDisconnect:
        raise HTTPException(400) from None
    return body


def _choice(body: bytes) -> Choice:
    """The answer of a form. Raises HTTPException 400 if it is not exactly one that there is."""
    try:
        fields = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=1)
    except ValueError:
        raise HTTPException(400) from None
    for choice in CHOICES:
        if fields == {"choice": [choice]}:
            return choice
    raise HTTPException(400)
