"""Who gets in: nobody from elsewhere, nobody without the admin key, no form that was not made here."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from console_cases import CHAT, FORM, HERE, KEY, config, consoled, here

from guardrail.cli import listen
from guardrail.config.tenants import hash_key
from guardrail.console.access import is_local, is_same_site
from guardrail.console.app import invitation
from guardrail.console.sessions import COOKIE, Failures, Sessions
from guardrail.errors import WireError
from guardrail.events import RequestRefused

PAGES = ("overview", "decisions", "decisions/abc", "policies", "policies/harassment", "playground", "health")


@pytest.mark.parametrize("path", PAGES)
async def test_without_a_session_every_page_asks_for_the_key_and_shows_nothing(path: str) -> None:
    async with consoled(signed_in=False) as console:
        response = await console.client.get(f"/console/{path}?a=b")
        assert (response.status_code, response.text) == (303, "")
        assert response.headers["location"].startswith("/console/login?next=%2Fconsole%2F")
        twin = await console.client.get(f"/console/{path}.json")
        assert (twin.status_code, list(twin.json())) == (401, ["error"])
        assert (await console.client.post(f"/console/{path}", headers=FORM, data={"text": "x"})).status_code == 403


async def test_the_admin_key_opens_it_and_the_cookie_is_kept_from_scripts_and_other_sites() -> None:
    async with consoled(signed_in=False) as console:
        response = await console.sign_in(next="/console/health")
        assert (response.status_code, response.headers["location"]) == (303, "/console/health")
        cookie = response.headers["set-cookie"].lower()
        assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/console", "max-age=3600"))
        assert "secure" not in cookie  # the tests' address is plain http
        assert "Health" in await console.page("health")


async def test_over_https_the_cookie_never_leaves_it() -> None:
    async with consoled(signed_in=False) as console, here(console.app, base_url="https://localhost") as client:
        response = await client.post("/console/login", data={"key": KEY}, headers={"origin": "https://localhost"})
        assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "next_",
    ["https://evil.example/", "//evil.example", "/v1/models", "/console/../v1", "/console/\\evil", "/console/login", "/console/x\r\ny"],
)
async def test_signing_in_leads_to_pages_of_the_console_only(next_: str) -> None:
    async with consoled(signed_in=False) as console:
        location = (await console.sign_in(next=next_)).headers["location"]
        assert location == "/console/overview" or (location.startswith("/console/") and "evil" not in location)


@pytest.mark.parametrize("key", ["", "wrong", KEY + " ", KEY.upper(), hash_key(KEY), "ключ", "k" * 5_000])
async def test_no_other_key_opens_it(key: str) -> None:
    async with consoled(signed_in=False) as console:
        response = await console.sign_in(key)
        assert (response.status_code, "set-cookie" in response.headers) == (403, False)
        assert "not the admin key" in response.text
        assert (await console.client.get("/console/health")).status_code == 303


async def test_a_tenants_key_opens_nothing_of_it() -> None:
    settings = config(tenants={"acme": {"api_keys": [hash_key("acme-key")]}})
    async with consoled(settings, signed_in=False) as console:
        assert (await console.sign_in("acme-key")).status_code == 403
        for headers in ({"authorization": "Bearer acme-key"}, {"x-api-key": "acme-key"}):
            for path in PAGES:
                assert (await console.client.get(f"/console/{path}", headers=headers)).status_code == 303
                assert (await console.client.get(f"/console/{path}.json", headers=headers)).status_code == 401
        assert (await console.client.post(CHAT, json={}, headers={"authorization": f"Bearer {KEY}"})).status_code == 401


async def test_a_program_reads_the_twins_with_the_key_and_sends_no_form_with_it() -> None:
    async with consoled(signed_in=False) as console:
        bearer = {"authorization": f"Bearer {KEY}"}
        assert (await console.client.get("/console/health.json", headers=bearer)).json()["ready"] is True
        assert (await console.client.get("/console/health", headers=bearer)).status_code == 303
        sent = await console.client.post("/console/playground.json", headers=bearer | FORM, data={"text": "hello"})
        assert sent.status_code == 403


async def test_wrong_keys_are_counted_and_then_nobody_from_there_may_try_for_a_while() -> None:
    async with consoled(signed_in=False) as console:
        answers = [await console.sign_in("wrong") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [403] * 5 + [429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert (await console.sign_in()).status_code == 429
        twin = await console.client.get("/console/health.json", headers={"authorization": f"Bearer {KEY}"})
        assert twin.status_code == 401
        async with here(console.app, address="127.0.0.2") as other:
            assert (await other.post("/console/login", data={"key": KEY}, headers=FORM)).status_code == 303


async def test_wrong_keys_behind_a_reverse_proxy_count_for_whoever_sent_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.7")  # that of the reverse proxy; without it, those of this machine
    async with consoled(config({"public": True}), signed_in=False) as console:
        served = listen.settings(console.app)
        served.load()

        async def tries(address: str, key: str) -> int:
            async with here(served.loaded_app, address="10.0.0.7") as client:
                headers = {**FORM, "x-forwarded-for": f"203.0.113.250, {address}"}
                return (await client.post("/console/login", data={"key": key}, headers=headers)).status_code

        assert [await tries("203.0.113.9", "wrong") for _ in range(6)] == [403] * 5 + [429]
        assert await tries("203.0.113.10", KEY) == 303


def test_wrong_keys_are_forgotten_after_a_minute_and_bounded_together() -> None:
    now = [0.0]
    failures = Failures(each=2, together=4, within_s=60, clock=lambda: now[0])
    for address in "aabbbb":
        failures.note(address)
    assert (failures.wait_s("a") > 0, failures.wait_s("c") > 0) == (True, True)
    now[0] = 60.0
    assert (failures.wait_s("a"), failures.wait_s("c")) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("203.0.113.9", {}),
        ("127.0.0.1", {"host": "console.example.com"}),
        ("127.0.0.1", {"host": "127.0.0.1.example.com"}),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9"}),
        ("127.0.0.1", {"forwarded": "for=203.0.113.9"}),
        ("127.0.0.1", {"via": "1.1 proxy"}),
    ],
)
async def test_from_another_machine_there_is_no_console(address: str, headers: dict[str, str]) -> None:
    async with consoled(signed_in=False) as console, here(console.app, address=address) as client:
        nowhere = await client.get("/nowhere", headers=headers)
        for path in ("/console", "/console/login", "/console/overview", "/console/static/console.css"):
            response = await client.get(path, headers=headers)
            assert (response.status_code, response.json()) == (404, nowhere.json())
            assert console.sink.of(RequestRefused)[-1].path == path
        assert (await client.post("/console/login", data={"key": KEY}, headers={"origin": HERE} | headers)).status_code == 404


async def test_a_public_console_is_there_for_other_machines_behind_the_same_key() -> None:
    async with consoled(config({"public": True}), signed_in=False) as console:
        async with here(console.app, address="203.0.113.9", base_url="http://guard.example.com") as client:
            assert (await client.get("/console/health")).status_code == 303
            sent = await client.post("/console/login", data={"key": KEY}, headers={"origin": "http://guard.example.com"})
            assert sent.status_code == 303
            assert (await client.get("/console/health")).status_code == 200


@pytest.mark.parametrize(
    ("address", "host", "local"),
    [
        ("127.0.0.1", b"localhost:8080", True),
        ("::1", b"[::1]:8080", True),
        ("::ffff:127.0.0.1", b"127.0.0.1", True),
        ("127.8.9.1", b"LOCALHOST", True),
        ("::ffff:10.0.0.1", b"localhost", False),
        ("10.0.0.1", b"localhost", False),
        ("127.0.0.1", b"localhost.example.com", False),
        ("127.0.0.1", b"", False),
        (None, b"localhost", False),
    ],
)
def test_local_is_a_peer_on_this_machine_that_asks_for_this_machine(address: str | None, host: bytes, local: bool) -> None:
    scope = {"client": None if address is None else (address, 1), "headers": [(b"host", host)]}
    assert is_local(scope) is local
    assert is_local({**scope, "headers": [(b"host", host), (b"host", b"evil.example.com")]}) is False


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1:8081", "http://127.0.0.1", "file://127.0.0.1:8080"]
)
async def test_a_form_of_another_site_is_refused_whatever_it_carries(origin: str | None) -> None:
    async with consoled() as console:
        token = re.search(r'name="token" value="([^"]+)"', await console.page("playground"))
        assert token is not None
        headers = {} if origin is None else {"origin": origin}
        for path in ("playground", "policies/harassment/test", "logout", "login"):
            fields = {"token": token[1], "text": "hello", "key": KEY}
            assert (await console.client.post(f"/console/{path}", data=fields, headers=headers)).status_code == 403
        assert console.classifier.requests == []


@pytest.mark.parametrize("token", ["", "x", "токен"])
async def test_a_form_without_its_sessions_token_is_refused(token: str) -> None:
    async with consoled() as console:
        for path in ("playground", "policies/harassment/test", "logout"):
            response = await console.client.post(f"/console/{path}", data={"token": token, "text": "hello"}, headers=FORM)
            assert response.status_code == 403
        assert console.classifier.requests == []


async def test_a_token_is_good_for_its_own_session_only() -> None:
    async with consoled() as console, here(console.app) as other:
        assert (await other.post("/console/login", data={"key": KEY}, headers=FORM)).status_code == 303
        theirs = re.search(r'name="token" value="([^"]+)"', (await other.get("/console/health")).text)
        assert theirs is not None
        sent = await console.client.post("/console/logout", data={"token": theirs[1]}, headers=FORM)
        assert sent.status_code == 403


async def test_signing_out_ends_the_session_even_for_who_kept_the_cookie() -> None:
    async with consoled() as console:
        kept = console.client.cookies[COOKIE]
        assert (await console.send("logout")).headers["location"] == "/console/login"
        async with here(console.app) as client:
            client.cookies.set(COOKIE, kept)
            assert (await client.get("/console/health")).status_code == 303


def test_a_session_is_short_signed_and_worth_nothing_under_another_key_or_secret() -> None:
    now = [1_000.0]
    key, secret = hash_key(KEY), b"s" * 32
    sessions = Sessions(key, secret, lifetime_s=60, clock=lambda: now[0])
    value = sessions.issue()
    session = sessions.read(value)
    assert session is not None
    assert Sessions(key, secret, lifetime_s=60, clock=lambda: now[0]).read(value) == session  # another worker
    assert Sessions(hash_key("other"), secret, lifetime_s=60, clock=lambda: now[0]).read(value) is None
    assert Sessions(key, b"t" * 32, lifetime_s=60, clock=lambda: now[0]).read(value) is None
    identity, until, mac = value.split(".")
    for wrong in (
        f"{identity}.{int(until) + 1}.{mac}",
        f"0{identity[1:]}x.{until}.{mac}",
        f"{identity}.{until}.",
        "",
        "..",
        "ä.1.x",
        None,
        value * 9,
    ):
        assert sessions.read(wrong) is None
    now[0] = 1_060.0
    assert sessions.read(value) is None


async def test_an_invitation_signs_in_once_and_is_no_session_itself() -> None:
    key, secret = hash_key(KEY), b"s" * 32
    sessions = Sessions(key, secret, lifetime_s=60)
    link = invitation(key, secret)
    given = link.partition("invitation=")[2]
    assert sessions.read(given) is None
    assert (sessions.accept(given), sessions.accept(given), sessions.accept(sessions.issue()), sessions.accept("x")) == (
        True,
        False,
        False,
        False,
    )
    async with consoled(signed_in=False) as console:
        response = await console.client.get("/console/login?invitation=made-up.1.x")
        assert (response.status_code, "used already" in response.text, "set-cookie" in response.headers) == (200, True, False)


def test_what_one_worker_has_ended_no_other_takes(tmp_path: Path) -> None:
    one, other = (Sessions(hash_key(KEY), b"s" * 32, lifetime_s=60, shared=tmp_path) for _ in range(2))
    kept, value = one.issue(), one.issue()
    session = other.read(value)
    assert session is not None
    other.end(session)
    assert (one.read(value), other.read(value)) == (None, None)
    assert one.read(kept) is not None
    link = one.invitation()
    assert (one.accept(link), other.accept(link)) == (True, False)
    assert Sessions(hash_key(KEY), b"s" * 32, lifetime_s=60, shared=tmp_path).read(value) is None  # a worker that was started again


async def test_a_sign_out_that_no_other_worker_can_be_told_of_is_an_error_and_holds_here(tmp_path: Path) -> None:
    sessions = Sessions(hash_key(KEY), b"s" * 32, lifetime_s=60, shared=tmp_path / "gone")
    value = sessions.issue()
    session = sessions.read(value)
    assert session is not None
    with pytest.raises(WireError, match="holds in this one only") as refused:
        sessions.end(session)
    assert (refused.value.status, sessions.read(value)) == (503, None)
    with pytest.raises(WireError):
        sessions.accept(sessions.invitation())


@pytest.mark.parametrize(
    "path", ["/console", "/console/login", "/console/overview", "/console/nowhere", "/console/static/console.js", "/console/health.json"]
)
async def test_every_answer_forbids_scripts_frames_and_keeping(path: str) -> None:
    async with consoled() as console:
        headers = (await console.client.get(f"/console{path}")).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert "http" not in policy
        assert (headers["x-frame-options"], headers["cache-control"], headers["x-content-type-options"]) == ("DENY", "no-store", "nosniff")


async def test_no_page_holds_inline_script_or_style_or_an_address_elsewhere() -> None:
    async with consoled() as console:
        for path in ("overview", "decisions", "policies", "policies/harassment", "playground", "health"):
            text = await console.page(path)
            assert re.findall(r"<script(?![^>]* src=\"/console/static/)", text) == []
            assert re.findall(r"(?i)<style|\sstyle=|\son\w+=|javascript:", text) == []
            assert re.findall(r"(?:src|href|action)=\"(?!/console|\?|#)[^\"]*", text) == []


async def test_the_console_is_never_sent_on_and_stands_in_for_no_path_of_the_guard() -> None:
    async with consoled() as console:
        assert (await console.ask("Hello")).status_code == 200
        assert (await console.client.get("/healthz")).text == "ok"
        for path in ("/consoles", "/console.json", "/v1/console", "/CONSOLE/overview"):
            assert (await console.client.get(path)).status_code == 404
        assert (await console.client.get("/console/v1/chat/completions")).status_code == 404
        assert (await console.client.put("/console/overview")).status_code == 405
        refused = console.sink.of(RequestRefused)
        assert not any(event.path.startswith("/console/") for event in refused)


async def test_without_the_section_there_is_no_console() -> None:
    async with consoled(config().model_copy(update={"console": None}), signed_in=False) as console:
        for path in ("/console", "/console/", "/console/login", "/console/static/console.css"):
            assert (await console.client.get(path)).status_code == 404


async def test_a_form_that_is_too_large_or_of_another_kind_is_refused() -> None:
    async with consoled() as console:
        huge = await console.client.post(
            "/console/playground", content=b"a=" + b"x" * 600_000, headers=FORM | {"content-type": "application/x-www-form-urlencoded"}
        )
        assert huge.status_code == 413
        other = await console.client.post("/console/playground", json={"text": "x"}, headers=FORM)
        assert other.status_code == 415
        many = await console.client.post("/console/playground", data={f"f{i}": "x" for i in range(100)}, headers=FORM)
        assert many.status_code == 400


async def test_a_form_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.console.door.FORM_TIMEOUT_S", 0.05)

    async def dripping() -> AsyncIterator[bytes]:
        while True:
            yield b"a"
            await asyncio.sleep(0.01)  # each piece is in time, the whole never is

    async with consoled() as console:
        headers = FORM | {"content-type": "application/x-www-form-urlencoded"}
        async with asyncio.timeout(30):
            slow = await console.client.post("/console/playground", content=dripping(), headers=headers)
        assert slow.status_code == 408


def test_a_forms_origin_must_be_the_very_host() -> None:
    def asked(origin: bytes, host: bytes) -> bool:
        return is_same_site({"headers": [(b"origin", origin), (b"host", host)]})

    assert asked(b"http://localhost:8080", b"localhost:8080")
    assert not asked(b"http://localhost:8080@evil.example", b"localhost:8080")
    assert not asked(b"http://localhost:80801", b"localhost:8080")
