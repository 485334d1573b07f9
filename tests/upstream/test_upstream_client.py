"""The HTTP upstream against real servers: what travels, what is refused, and how each way of breaking is told."""

import asyncio
import gzip
import json
import socket

import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Limits, Timeouts
from guardrail.upstream.client import UpstreamClient

CHAT = "/v1/chat/completions"
HEADERS = [("Content-Type", "application/json")]


async def fetch(client, path=CHAT, headers=HEADERS, body=b"{}"):
    async with client.send("POST", path, headers, body) as answer:
        return answer.status, dict(answer.headers), await answer.read()


async def code_of(client, path=CHAT):
    with pytest.raises(UpstreamError) as caught:
        await fetch(client, path)
    return caught.value.code


@pytest.fixture
async def client():
    """Make clients that are closed at the end."""
    made = []

    def make(base_url, **settings):
        made.append(UpstreamClient(base_url, **settings))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()
        await one.aclose()


async def mirror(scope, receive, send):
    """Answers with what it got."""
    body = (await receive())["body"].decode()
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    told = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode(), "headers": headers, "body": body}
    await JSONResponse(told)(scope, receive, send)


def responding(response):
    async def app(scope, receive, send):
        await response()(scope, receive, send)

    return app


async def test_method_path_query_and_body_arrive_and_v1_is_not_doubled(serve, client):
    address = await serve(mirror)
    for root in (address, f"{address}/v1", f"{address}/v1/"):
        _, _, body = await fetch(client(root), f"{CHAT}?a=b%20c", body=b'{"x":"\xc3\xa9"}')
        told = json.loads(body)
        assert told["path"] == (CHAT if "/v1" in root else "/chat/completions")
        assert (told["method"], told["query"], told["body"]) == ("POST", "a=b%20c", '{"x":"é"}')


async def test_hop_by_hop_headers_cookies_and_the_guards_own_stay_here(serve, client):
    sent = [
        ("Content-Type", "application/json"),
        ("Connection", "keep-alive, X-Private"),
        ("X-Private", "1"),
        ("Keep-Alive", "9"),
        ("TE", "trailers"),
        ("Cookie", "a=b"),
        ("Host", "elsewhere"),
        ("Accept-Encoding", "gzip"),
        ("Content-Length", "999"),
        ("X-Guardrail-Decision", "allow"),
        ("OpenAI-Organization", "org"),
        ("Authorization", "Bearer theirs"),
    ]
    _, _, body = await fetch(client(await serve(mirror)), headers=sent)
    headers = json.loads(body)["headers"]
    host = headers.pop("host")
    assert host.startswith("127.0.0.1")
    assert headers == {
        "content-type": "application/json",
        "openai-organization": "org",
        "authorization": "Bearer theirs",
        "accept-encoding": "identity",
        "content-length": "2",
    }


async def test_a_configured_key_replaces_every_credential_of_the_client(serve, client):
    sent = [("Authorization", "Bearer theirs"), ("api-key", "theirs"), ("X-Api-Key", "theirs")]
    _, _, body = await fetch(client(await serve(mirror), api_key="ours"), headers=sent)
    headers = json.loads(body)["headers"]
    assert headers["authorization"] == "Bearer ours"
    assert "theirs" not in str(headers)


async def test_the_key_goes_where_anthropics_api_wants_it(serve, client):
    made = client(await serve(mirror), api_key="ours", key_header="x-api-key")
    _, _, body = await fetch(made, headers=[*HEADERS, ("Authorization", "Bearer theirs"), ("x-api-key", "theirs")])
    told = json.loads(body)["headers"]
    assert (told["x-api-key"], "authorization" in told) == ("ours", False)


async def test_answer_headers_lose_hop_by_hop_cookies_and_the_guards_name(serve, client):
    extra = {"set-cookie": "a=b", "x-guardrail-decision": "allow", "x-request-id": "r", "keep-alive": "9", "content-type": "text/x"}
    _, headers, _ = await fetch(client(await serve(responding(lambda: Response(b"ok", headers=extra)))))
    assert headers == {"x-request-id": "r", "content-type": "text/x", "content-length": "2"}


async def test_the_length_of_an_encoded_answer_is_not_passed_on(serve, client):
    packed = gzip.compress(b"hello")
    _, headers, body = await fetch(client(await serve(responding(lambda: Response(packed, headers={"content-encoding": "gzip"})))))
    assert body == b"hello"
    assert headers.keys() & {"content-length", "content-encoding"} == set()


async def test_cookies_are_not_kept_between_requests(serve, client):
    async def app(scope, receive, send):
        told = {name.decode(): value.decode() for name, value in scope["headers"]}
        await JSONResponse(told, headers={"set-cookie": "a=b"})(scope, receive, send)

    one = client((await serve(app)).replace("127.0.0.1", "localhost"))  # no jar keeps cookies of bare addresses
    for _ in range(2):
        assert "cookie" not in json.loads((await fetch(one))[2])


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
async def test_an_error_status_is_an_answer_and_is_asked_for_once(serve, client, status):
    hits = []

    async def app(scope, receive, send):
        hits.append(1)
        await Response(b"no", status)(scope, receive, send)

    assert (await fetch(client(await serve(app))))[::2] == (status, b"no")
    assert len(hits) == 1


async def test_a_redirect_is_neither_followed_nor_passed_on(serve, client):
    app = responding(lambda: Response(b"", 307, headers={"location": "http://127.0.0.1:1/v1/x"}))
    assert await code_of(client(await serve(app))) == "malformed"


async def test_a_compressed_answer_is_readable_and_its_bomb_is_bounded(serve, client):
    app = responding(lambda: Response(gzip.compress(b"a" * 5_000_000), headers={"content-encoding": "gzip"}))
    address = await serve(app)
    _, headers, body = await fetch(client(address))
    assert body == b"a" * 5_000_000
    assert "content-encoding" not in headers
    assert await code_of(client(address, limits=Limits(answer_bytes=100_000))) == "too_large"


async def test_an_endless_answer_is_cut_at_the_limit(serve, client):
    async def endless():
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    app = responding(lambda: StreamingResponse(endless()))
    assert await code_of(client(await serve(app), limits=Limits(answer_bytes=50_000))) == "too_large"


async def test_chunks_arrive_as_they_are_sent(serve, client):
    go = asyncio.Event()

    async def two():
        yield b"one"
        await go.wait()
        yield b"two"

    one = client(await serve(responding(lambda: StreamingResponse(two()))))
    async with one.send("POST", CHAT, HEADERS, b"{}") as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"one"
        go.set()
        assert [chunk async for chunk in chunks] == [b"two"]


async def test_a_read_timeout_before_and_within_the_answer(serve, client):
    async def silent(scope, receive, send):
        await asyncio.sleep(5)

    async def stalling():
        yield b"one"
        await asyncio.sleep(5)

    fast = Timeouts(connect_s=1.0, read_s=0.05)
    assert await code_of(client(await serve(silent), timeouts=fast)) == "timeout"
    assert await code_of(client(await serve(responding(lambda: StreamingResponse(stalling()))), timeouts=fast)) == "timeout"


async def test_a_refused_connect_is_tried_again_and_then_told(client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert await code_of(client(f"http://127.0.0.1:{port}")) == "connect"


async def test_a_connect_that_works_the_second_time_is_no_error(client):
    async def ok(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, but nobody listens yet
        task = asyncio.ensure_future(fetch(client(f"http://127.0.0.1:{reserved.getsockname()[1]}")))
        await asyncio.sleep(0.03)
        assert not task.done()
        server = await asyncio.start_server(ok, sock=reserved)
        assert (await task)[2] == b"ok"
        server.close()


async def test_a_request_that_arrived_is_never_sent_twice(serve_raw, client):
    seen = []

    async def hang_up(reader, writer):
        seen.append(await reader.readuntil(b"{}"))

    assert await code_of(client(await serve_raw(hang_up))) == "disconnect"
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", "disconnect"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n", "disconnect"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain", "disconnect"),
        (b"SMTP hello\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "malformed"),
    ],
)
async def test_broken_http_is_told_apart(serve_raw, client, sent, code):
    async def answer(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(sent)
        await writer.drain()

    assert await code_of(client(await serve_raw(answer))) == code


async def test_leaving_early_and_cancelling_close_the_upstreams_connection(serve_raw, client):
    closed = asyncio.Queue()

    async def stall(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nstart")
        await writer.drain()
        await reader.read()
        closed.put_nowait("closed")

    one = client(await serve_raw(stall))
    async with asyncio.timeout(2), one.send("POST", CHAT, HEADERS, b"{}") as answer:
        assert await anext(answer.chunks()) == b"start"
    assert await asyncio.wait_for(closed.get(), 2) == "closed"

    task = asyncio.ensure_future(fetch(one))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(closed.get(), 2) == "closed"


async def test_connections_are_reused(serve_raw, client):
    connections = []

    async def keep(reader, writer):
        connections.append(1)
        while True:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    one = client(await serve_raw(keep))
    for _ in range(3):
        assert (await fetch(one))[2] == b"ok"
    assert len(connections) == 1


@pytest.mark.parametrize(
    "url", ["ftp://host", "file:///etc/passwd", "host:80", "http://", "http://user:pw@host", "http://host?x=1", "http://host#x"]
)
def test_only_a_plain_http_address_is_an_upstream(url):
    with pytest.raises(ValueError, match="base_url"):
        UpstreamClient(url)


@pytest.mark.parametrize(
    "path", ["", "v1", "//v1/x", "/v1/../x", "/v1/./x", "/v1//x", "/v1/%2e%2e/x", "/v1/x#y", "/v1/x y", "http://other/x", "/v1\r\nx"]
)
async def test_a_crooked_path_is_refused_before_anything_is_sent(client, path):
    assert await code_of(client("http://127.0.0.1:9"), path) == "malformed"


async def test_a_closed_client_says_so(client):
    one = client("http://127.0.0.1:9")
    await one.aclose()
    assert await code_of(one) == "connect"


def test_neither_key_nor_address_shows_in_a_representation():
    assert "sk-secret" not in repr(UpstreamClient("http://127.0.0.1:9", api_key="sk-secret"))
