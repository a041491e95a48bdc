"""The web application: votes count as cast, once; nobody escapes, peeks or learns a side."""

import re
import socket
import sqlite3
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from exo2ego.evaluation.study.blinding import rows_for
from exo2ego.evaluation.study.folder import BALLOTS, StudyFault, read_study
from exo2ego.evaluation.study.key import KEY, read_key
from exo2ego.evaluation.study.serve import invite, serve

PANELS = ("reference", "blue", "red")


def vote(served: Any, link: str, number: int, choice: str) -> HTTPResponse:
    return served.ask("POST", f"{link}/{number}", f"choice={choice}")[0]


def chosen(served: Any, link: str) -> list[str | None]:
    """The participant's answers, in their order."""
    token = link.rpartition("/")[2]
    choices = served.ballots.choices(token)
    return [choices.get(row.sample_id) for row in rows_for(read_study(served.folder), token)]


def test_a_participant_goes_from_instructions_to_thanks(served: Any):
    link = served.invite()
    assert b"6 samples" in served.ask("GET", link)[1]
    for number, choice in enumerate(["blue", "red", "none", "none", "red"], start=1):
        answer = vote(served, link, number, choice)
        assert (answer.status, answer.headers["location"]) == (303, f"{link}/{number + 1}")
    assert vote(served, link, 6, "blue").headers["location"] == f"{link}/review"
    assert chosen(served, link) == ["blue", "red", "none", "none", "red", "blue"]
    assert b"6 of 6" in served.ask("GET", f"{link}/review")[1]
    assert served.ask("POST", f"{link}/submit")[0].status == 303
    assert b"6 of 6 samples are answered" in served.ask("GET", link)[1]


def test_one_continues_where_one_stopped_and_may_change_an_answer(served: Any):
    link = served.invite()
    vote(served, link, 1, "blue")
    vote(served, link, 3, "red")
    assert f'href="{link}/2">Continue with sample 2'.encode() in served.ask("GET", link)[1]
    shown = served.ask("GET", f"{link}/3")[1].decode()
    assert re.findall(r'value="(\w+)"[^>]*aria-pressed="true"', shown) == ["red"]
    vote(served, link, 3, "none")
    assert chosen(served, link) == ["blue", None, "none", None, None, None]


def test_gaps_may_be_submitted_and_then_nothing_changes(served: Any):
    link = served.invite()
    vote(served, link, 2, "red")
    for _ in range(2):  # a second click
        assert served.ask("POST", f"{link}/submit")[0].headers["location"] == link
    (person,) = served.ballots.participants()
    assert vote(served, link, 2, "blue").status == 409
    assert vote(served, link, 4, "blue").status == 409
    assert chosen(served, link) == [None, "red", None, None, None, None]
    served.ask("POST", f"{link}/submit")
    assert served.ballots.participants() == [person]
    assert served.ask("GET", f"{link}/1")[0].headers["location"] == link


def test_the_same_vote_twice_is_one_vote_as_cast_first(served: Any):
    link = served.invite()
    vote(served, link, 1, "blue")
    before = served.ballots.votes()
    assert vote(served, link, 1, "blue").status == 303
    assert served.ballots.votes() == before
    vote(served, link, 1, "red")
    (after,) = served.ballots.votes()
    assert (after.choice, after.blue) == ("red", before[0].blue)


def test_each_panel_shows_the_video_of_the_participants_own_row(served: Any):
    study = read_study(served.folder)
    for link in (served.invite(), served.invite()):
        rows = rows_for(study, link.rpartition("/")[2])
        for number, row in enumerate(rows, start=1):
            for panel in PANELS:
                answer, data = served.ask("GET", f"{link}/{number}/{panel}.mp4")
                path = served.folder / "videos" / f"{row.videos[panel]}.mp4"
                assert (answer.status, data) == (200, path.read_bytes())


def test_order_and_sides_differ_between_participants_and_not_between_visits(built: Path):
    study = read_study(built)
    key = read_key(built, study)
    rows = {f"token{n}": rows_for(study, f"token{n}") for n in range(200)}
    assert all(rows_for(study, token) == before for token, before in rows.items())
    assert len({tuple(row.sample_id for row in order) for order in rows.values()}) > 100
    for sample in study.samples:
        ours = key.entries[sample.id].ours
        shown = [row for order in rows.values() for row in order if row.sample_id == sample.id]
        ours_blue = sum(row.videos["blue"] == ours for row in shown)
        assert 65 <= ours_blue <= 135  # of 200: five deviations
    firsts = [order[0].sample_id for order in rows.values()]
    assert {firsts.count(sample.id) > 10 for sample in study.samples} == {True}


def test_answers_differ_between_methods_in_nothing_but_the_pixels(served: Any):
    link = served.invite()
    answers = [
        served.ask("GET", f"{link}/{number}/{panel}.mp4")
        for number in range(1, 7)
        for panel in PANELS
    ]
    heads = [
        {name: value for name, value in answer.headers.items() if name != "date"}
        for answer, _ in answers
    ]
    assert all(head == heads[0] for head in heads)
    assert not {"etag", "last-modified", "server"} & {name.lower() for name in heads[0]}
    assert len({len(data) for _, data in answers}) == 1


def test_pages_name_no_clip_method_category_or_file(served: Any):
    link = served.invite()
    study = read_study(served.folder)
    entries = read_key(served.folder, study).entries.values()
    words = {"ours", "baseline", *study.digests, *(entry.clip_id for entry in entries)}
    words |= {entry.category for entry in entries} | {sample.id for sample in study.samples}
    for page in ("", "/1", "/6", "/review"):
        text = served.ask("GET", link + page)[1].decode()
        assert not [word for word in words if word in text], page


def test_sample_pages_differ_only_in_numbers(served: Any):
    link = served.invite()
    pages = [served.ask("GET", f"{link}/{number}")[1].decode() for number in (2, 3, 4)]
    assert len({re.sub(r"\d", "", page.replace(link, "")) for page in pages}) == 1


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=3-11", 206, slice(3, 12)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=-999999999", 206, slice(0, None)),
        ("bytes=999999999-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=9-3", 416, slice(0, 0)),
        ("bytes=0-1,4-5", 200, slice(0, None)),
        ("bytes=-", 200, slice(0, None)),
        ("lines=0-1", 200, slice(0, None)),
        ("bytes=" + "9" * 5000 + "-", 200, slice(0, None)),
        ("bytes=٣-٤", 200, slice(0, None)),
    ],
)
def test_ranges_are_answered_as_the_rfc_says(asked: str, status: int, part: slice, served: Any):
    path = f"{served.invite()}/1/reference.mp4"
    whole = served.ask("GET", path)[1]
    answer, data = served.ask("GET", path, range=asked.encode().decode("latin-1"))
    assert (answer.status, data) == (status, whole[part])
    if status == 206:
        first, last, length = map(int, re.findall(r"\d+", answer.headers["content-range"]))
        assert (whole[first : last + 1], length) == (data, len(whole))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/s/",
        "/s/unknown",
        "/s/" + "A" * 22,
        "/s/" + "A" * 20_000,
        "/s/%00",
        "/s/' OR 1=1 --".replace(" ", "%20"),
        "/s/../../etc/passwd",
        "/static/../study.json",
        "/static/..%2f..%2fkey.json",
        "/static/sample.html",
        "/key.json",
        "{link}/0",
        "{link}/7",
        "{link}/-1",
        "{link}/1e0",
        "{link}/٣".encode().decode("latin-1"),
        "{link}/" + "9" * 5000,
        "{link}/1/green.mp4",
        "{link}/1/../../../key.json",
        "{link}/1/..%2f..%2fkey.mp4",
        "{link}/7/blue.mp4",
        "{link}/key.json",
    ],
)
def test_paths_lead_nowhere_but_to_pages(path: str, served: Any):
    path = path.replace("{link}", served.invite())
    sent = "".join(c if ord(c) < 128 else f"%{ord(c):02x}" for c in path)
    answer, data = served.ask("GET", sent)
    assert answer.status in (307, 404)
    assert b"study_id" not in data
    assert b"root:" not in data


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("choice=green", 400),
        ("choice=", 400),
        ("", 400),
        ("choice=blue&choice=red", 400),
        ("choice=blue&more=1", 400),
        ("choice=BLUE", 400),
        ("%00=%ff", 400),
        (b"\xff\xfe", 400),
        ('{"choice": "blue"}', 400),
        ("choice=blue" + " " * 300, 413),
        ("x" * 1_000_000, 413),
    ],
    ids=str,
)
def test_votes_that_are_none_are_refused(body: str | bytes, status: int, served: Any):
    link = served.invite()
    assert served.ask("POST", f"{link}/1", body)[0].status == status
    assert served.ballots.votes() == []


def test_a_vote_that_never_arrives_is_given_up(served: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exo2ego.evaluation.study.booth.BODY_SECONDS", 0.1)
    late = {"content-length": "11"}
    answer, _ = served.ask("POST", f"{served.invite()}/1", b"", **late)
    assert answer.status == 408
    assert served.ballots.votes() == []


def test_a_vote_of_many_chunks_is_bounded_too(served: Any):
    link = served.invite()
    chunks = b"40\r\n" + b"x" * 64 + b"\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        head = f"POST {link}/1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + chunks * 100)
        assert b" 413 " in connection.recv(100)
    assert served.ballots.votes() == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(method: str, served: Any):
    assert served.ask(method, f"{served.invite()}/1")[0].status == 405


def test_an_unknown_token_votes_and_submits_nothing(served: Any):
    served.invite()
    unknown = "/s/" + "A" * 22
    for path in (f"{unknown}/1", f"{unknown}/submit"):
        assert served.ask("POST", path, "choice=blue")[0].status == 404
    assert served.ballots.votes() == []
    assert served.ballots.participants()[0].submitted_at is None


@pytest.mark.parametrize("page", ["", "/1", "/1/blue.mp4", "/review", "/9", "/../static/study.js"])
def test_every_answer_is_guarded(page: str, served: Any):
    answer, _ = served.ask("GET", served.invite() + page)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?:|\*|unsafe|data:", policy)
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_ask_nothing_of_third_parties(served: Any):
    link = served.invite()
    for page in ("", "/1", "/review", "/unknown"):
        text = served.ask("GET", link + page)[1].decode()
        assert not re.findall(r'(?:src|href|action)="(?!/)[^"]*"', text)
        assert not re.search(r"<style|style=|\son\w+=|<script>", text)
    for name in ("study.css", "study.js"):
        assert not re.search(rb"https?:|//[a-z]", served.ask("GET", f"/static/{name}")[1])


def test_links_made_while_serving_work_and_each_is_another(served: Any):
    links = invite(served.folder, 5, f"http://127.0.0.1:{served.port}/")
    assert len(set(links)) == 5
    for link in links:
        path = re.fullmatch(rf"http://127.0.0.1:{served.port}(/s/[\w-]{{22}})", link)
        assert path
        assert served.ask("GET", path[1])[0].status == 200


def test_a_vote_that_cannot_be_written_is_not_acknowledged(served: Any):
    link = served.invite()
    other = sqlite3.connect(served.folder / BALLOTS)
    other.executescript(
        "CREATE TRIGGER full BEFORE INSERT ON votes BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    answer, text = served.ask("POST", f"{link}/1", "choice=blue")
    assert (answer.status, b"Not saved" in text) == (503, True)
    other.execute("DROP TRIGGER full")
    other.close()
    assert vote(served, link, 1, "blue").status == 303
    assert len(served.ballots.votes()) == 1


def test_the_server_needs_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / KEY).unlink()
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    addresses: list[str] = []
    serve(folder, host="127.0.0.1", port=0, ready=addresses.append)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", addresses[0])


def test_a_port_in_use_is_a_fault(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StudyFault, match="a port in use"):
            serve(folder, host="127.0.0.1", port=port, ready=print)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0)])
def test_an_address_that_is_not_to_be_had_is_a_fault(host: str, port: int, folder: Path):
    with pytest.raises(StudyFault, match="cannot be served"):
        serve(folder, host=host, port=port, ready=print)
