"""An engine behind a socket answers as the engine itself does, to many at once, and nobody harms the others."""

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from stand_in import INFO, POISON, STUCK, StandIn, no_defects, tokens, told

from guardrail.engine.cope.messages import Ask, EngineInfo, Prefix
from guardrail.engine.cope.process import dialogue
from guardrail.engine.cope.process.client import Patience, SocketEngine
from guardrail.engine.cope.process.link import Bounds
from guardrail.engine.cope.process.server import EngineServer
from guardrail.engine.cope.process.wire import Decoder, Frame, encode
from guardrail.errors import ClassifierError, GuardrailError

PREFIX = Prefix("p", tokens(3, 1, 4))
OTHER = Prefix("q", tokens(1, 5, 9))


@pytest.fixture(autouse=True)
async def sound() -> AsyncIterator[None]:
    async with no_defects():
        yield


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are too long for a socket
        yield Path(folder) / "engine.sock"


def ask(*ids: int, prefix: str = "p", within: float = 20.0, **more: object) -> Ask:
    return Ask(prefix, tokens(*ids), time.monotonic() + within, **more)


@asynccontextmanager
async def client(path: Path, **patience: float) -> AsyncIterator[SocketEngine]:
    engine = SocketEngine(path, patience=Patience(**({"open_s": 10.0, "pause_s": 0.05} | patience)))
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


async def until(reached: Callable[[], bool]) -> None:
    """Poll for what nobody announces."""
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.005)


class Raw:
    """A client that does as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = Decoder()
        self.frames: list[Frame] = []

    @classmethod
    @asynccontextmanager
    async def at(cls, path: Path) -> AsyncIterator["Raw"]:
        raw = cls(*await asyncio.open_unix_connection(str(path)))
        try:
            yield raw
        finally:
            raw.writer.close()

    def say(self, *frames: Frame) -> None:
        self.writer.write(b"".join(encode(frame) for frame in frames))

    async def frame(self, kind: str) -> Frame:
        """The next one of that kind."""
        async with asyncio.timeout(10):
            while True:
                while self.frames:
                    if (found := self.frames.pop(0)).kind == kind:
                        return found
                data = await self.reader.read(65_536)
                assert data, f"the connection ended without {kind}"
                self.frames += self.decoder.feed(data)

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            while await self.reader.read(65_536):
                pass


async def test_answers_are_the_engines_own(path: Path) -> None:
    engine = StandIn()
    async with EngineServer(engine, path), client(path) as through:
        assert through.info == INFO
        await through.prepare([PREFIX, OTHER], deadline=time.monotonic() + 9)
        asks = [ask(2, 7), ask(1, 8, prefix="q", probe=True, keep=1, stream="s"), ask(1, prefix="unknown")]
        one, two, three = await through.ask(asks)
        assert (one, two) == (told(PREFIX.tokens, [2, 7]), told(OTHER.tokens, [1, 8], probe=1))
        assert (type(three), three.code) == (ClassifierError, "not_prepared")
        assert await through.ask([]) == []
        assert through.health().alive
        with pytest.raises(ClassifierError, match="9000 tokens, 8192 fit") as refused:
            await through.prepare([Prefix("long", tokens(*range(9000)))], deadline=time.monotonic() + 9)
        assert refused.value.code == "too_long"


async def test_two_clients_at_once_do_not_mix_and_their_streams_are_apart(path: Path) -> None:
    engine = StandIn()
    async with EngineServer(engine, path), client(path) as one, client(path) as two:
        await asyncio.gather(*(each.prepare([PREFIX], deadline=time.monotonic() + 9) for each in (one, two)))
        answers = await asyncio.gather(*((one, two)[n % 2].ask([ask(n, n + 1)]) for n in range(200)))
        assert answers == [[told(PREFIX.tokens, [n, n + 1])] for n in range(200)]
        for each in (one, two):
            [answer] = await each.ask([ask(1, 2, 3, stream="s", keep=2)])
            assert answer.tokens_run == 3
        one.forget("s")
        [again], [kept] = await one.ask([ask(1, 2, 3, stream="s", keep=2)]), await two.ask([ask(1, 2, 3, stream="s", keep=2)])
        assert (again.tokens_run, kept.tokens_run) == (3, 1)


async def test_more_than_fits_a_frame_goes_in_several(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.engine.cope.process.client.TOKENS_A_FRAME", 10)
    async with EngineServer(StandIn(), path), client(path) as through:
        await through.prepare([PREFIX, OTHER, Prefix("r", tokens(*range(50)))], deadline=time.monotonic() + 9)
        answers = await through.ask([ask(*range(n)) for n in range(1, 20)])
        assert answers == [told(PREFIX.tokens, range(n)) for n in range(1, 20)]


async def test_what_one_pass_answers_comes_in_one_message(path: Path) -> None:
    engine = StandIn()
    async with EngineServer(engine, path), Raw.at(path) as raw:
        raw.say(dialogue.hello(), dialogue.preparing(0, [PREFIX], time.monotonic() + 9))
        await raw.frame("prepared")
        raw.say(*(dialogue.asked(n, [ask(STUCK, n)]) for n in range(1, 6)), dialogue.preparing(9, [PREFIX], time.monotonic() + 9))
        await raw.frame("prepared")
        assert engine.stuck == 5
        engine.released.set()
        assert [answered.number for answered in dialogue.answers_of(await raw.frame("answers"))] == [1, 2, 3, 4, 5]


async def test_a_caller_that_is_cancelled_takes_its_question_back(path: Path) -> None:
    engine = StandIn()
    async with EngineServer(engine, path), client(path) as through:
        waiting = asyncio.create_task(through.ask([ask(STUCK)]))
        await engine.arrived.wait()
        waiting.cancel()
        async with asyncio.timeout(10):
            await engine.taken_back.wait()
        assert engine.cancelled == 1


async def test_an_engine_that_misses_a_deadline_is_not_waited_for(path: Path) -> None:
    class Late(StandIn):
        async def _answer(self, ask: Ask) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.taken_back.set()

    engine = Late()
    async with EngineServer(engine, path), client(path, grace_s=0.05) as through:
        [answer] = await through.ask([ask(1, within=0.05)])
        assert answer.code == "timeout"
        async with asyncio.timeout(10):
            await engine.taken_back.wait()


async def test_a_client_that_leaves_is_forgotten_with_all_it_wanted(path: Path) -> None:
    engine = StandIn()
    async with EngineServer(engine, path) as server:
        async with Raw.at(path) as raw:
            raw.say(dialogue.hello(), dialogue.preparing(0, [PREFIX], time.monotonic() + 9))
            await raw.frame("prepared")
            raw.say(dialogue.asked(1, [ask(1, 2, stream="s", keep=1)]), dialogue.asked(2, [ask(STUCK)]))
            await raw.frame("answers")
            await engine.arrived.wait()
            assert len(engine.streams) == 1
        async with asyncio.timeout(10):
            await server.alone()
            await engine.taken_back.wait()
        assert (engine.streams, engine.cancelled, server.outstanding) == ({}, 1, 0)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_is_forgotten_after_its_last_question_was_taken_back_and_not_before(path: Path, leaves: bool) -> None:
    taken_back: list[int] = []

    class Attentive(StandIn):
        def forget(self, stream: str) -> None:
            taken_back.append(self.cancelled)
            super().forget(stream)

    engine = Attentive()
    async with EngineServer(engine, path), Raw.at(path) as raw:
        raw.say(dialogue.hello(), dialogue.asked(1, [ask(STUCK, stream="s", keep=1)]))
        await engine.arrived.wait()
        if leaves:
            raw.writer.close()
        else:
            raw.say(dialogue.cancel(1), dialogue.forget("s"))
        await until(lambda: bool(taken_back))
    assert taken_back[0] == 1, "a question that is still there would begin the stream anew, with nobody to forget it"


async def test_a_client_that_does_not_read_is_dropped_and_counted_and_the_others_are_served(path: Path) -> None:
    async with EngineServer(StandIn(), path, bounds=Bounds(unsent=200_000)) as server:
        async with Raw.at(path) as raw:
            raw.writer.transport.pause_reading()
            raw.say(dialogue.hello(), dialogue.preparing(0, [PREFIX], time.monotonic() + 9))
            many = [ask(*range(4000), keep=4000, probe=True)] * 20
            raw.say(*(dialogue.asked(n, many) for n in range(1, 4)))
            await until(lambda: server.dropped == 1)
        async with client(path) as through:
            await through.prepare([PREFIX], deadline=time.monotonic() + 9)
            assert await through.ask([ask(5)]) == [told(PREFIX.tokens, [5])]
        assert server.dropped == 1


HELLO = encode(dialogue.hello())


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not the engine's protocol"),
        (encode(Frame("hello", {"version": 99, "info": None})), "version 99"),
        (encode(dialogue.cancel(1)), "'hello' with version, info was expected"),
        (HELLO + encode(Frame("shout")), "not 'shout'"),
        (HELLO + encode(Frame("ask", {"number": 1, "asks": [{}]}, (tokens(1),))), "Ask has the fields"),
        (HELLO + encode(dialogue.asked(1, [ask(STUCK)])) * 2, "asked twice"),
        (HELLO + encode(dialogue.asked(1, [ask(1)] * 4097)), "4096 are the most"),
        (HELLO[:20], "begun and not ended"),
        (b"", "nothing was said"),
    ],
)
async def test_garbage_ends_its_own_connection_with_one_sentence(path: Path, said: bytes, sentence: str) -> None:
    async with EngineServer(StandIn(), path, bounds=Bounds(frame_s=0.05, hello_s=0.1)) as server, Raw.at(path) as raw:
        raw.writer.write(said)
        assert sentence in dialogue.fault_of(await raw.frame("fault"))
        await raw.ended()
        assert server.outstanding == 0
        async with client(path) as through:
            await through.prepare([PREFIX], deadline=time.monotonic() + 9)
            assert await through.ask([ask(5)]) == [told(PREFIX.tokens, [5])]


async def test_an_engine_that_talks_garbage_is_left_with_a_sentence(path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(babble, str(path)):
        engine = SocketEngine(path, patience=Patience(open_s=0.2, pause_s=0.01))
        with pytest.raises(ClassifierError, match="not the engine's protocol") as refused:
            await engine.open()
        assert refused.value.code == "crash"


async def test_a_defect_in_the_engine_is_one_error_and_no_hang(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with EngineServer(StandIn(), path), client(path) as through:
        await through.prepare([PREFIX], deadline=time.monotonic() + 9)
        [poisoned], [good] = await asyncio.gather(through.ask([ask(POISON)]), through.ask([ask(5)]))
        assert (poisoned.code, str(poisoned)) == ("crash", "the engine failed: RuntimeError")
        assert good == told(PREFIX.tokens, [5])
        assert "the engine failed on a question" in caplog.text


async def test_while_the_engine_is_down_every_ask_fails_at_once_and_afterwards_what_was_prepared_is_there(path: Path) -> None:
    first, second = StandIn(), StandIn()
    async with EngineServer(first, path) as server, client(path) as through:
        await through.prepare([PREFIX, OTHER], deadline=time.monotonic() + 9)
        waiting = [asyncio.create_task(through.ask([ask(STUCK), ask(1)])) for _ in range(20)]
        await until(lambda: first.stuck == 20)
        await server.__aexit__(None, None, None)
        for answers in await asyncio.gather(*waiting):
            assert [answer.code for answer in answers] == ["crash", "crash"]
        assert not through.health().alive
        assert "down" in through.health().detail
        [error] = await through.ask([ask(1)])
        assert error.code == "crash"
        with pytest.raises(ClassifierError, match="the engine is down"):
            await through.prepare([PREFIX], deadline=time.monotonic() + 9)
        through.forget("s")
        async with EngineServer(second, path):
            async with asyncio.timeout(10):
                await through.up()
            assert set(second.prefixes) == {"p", "q"}
            assert through.health().alive
            assert await through.ask([ask(5)]) == [told(PREFIX.tokens, [5])]


async def test_an_engine_is_not_up_before_everything_is_prepared_again(path: Path) -> None:
    class Slow(StandIn):
        async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
            self.arrived.set()
            await self.released.wait()
            await super().prepare(prefixes, deadline=deadline)

    slow = Slow()
    async with EngineServer(StandIn(), path) as server, client(path) as through:
        await through.prepare([PREFIX], deadline=time.monotonic() + 9)
        await server.__aexit__(None, None, None)
        async with EngineServer(slow, path):
            await slow.arrived.wait()
            assert not through.health().alive
            [error] = await through.ask([ask(1)])
            assert error.code == "crash"
            slow.released.set()
            async with asyncio.timeout(10):
                await through.up()
            assert through.health().alive


async def test_a_prefix_that_a_new_engine_has_no_room_for_does_not_keep_the_others_waiting(path: Path) -> None:
    class Narrower(StandIn):
        async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
            if any(prefix.key == "q" for prefix in prefixes):
                raise ClassifierError("too_long", "q has more tokens than there is memory for")
            await super().prepare(prefixes, deadline=deadline)

    async with EngineServer(StandIn(), path) as server, client(path) as through:
        await through.prepare([PREFIX, OTHER], deadline=time.monotonic() + 9)
        await server.__aexit__(None, None, None)
        await until(lambda: not through.health().alive)
        narrower = Narrower()
        async with EngineServer(narrower, path):
            async with asyncio.timeout(10):
                await through.up()
            assert set(narrower.prefixes) == {"p"}
            assert await through.ask([ask(5)]) == [told(PREFIX.tokens, [5])]


async def test_another_model_behind_the_same_socket_is_not_used(path: Path) -> None:
    async with EngineServer(StandIn(), path) as server, client(path) as through:
        await server.__aexit__(None, None, None)
        async with EngineServer(StandIn(EngineInfo("stand-in", "sha256:bb", "", "float32", 8192)), path):
            await until(lambda: "sha256:bb" in through.health().detail)
            assert not through.health().alive
            assert (await through.ask([ask(1)]))[0].code == "crash"


async def test_an_engine_that_is_not_heard_of_counts_as_down(path: Path) -> None:
    async with EngineServer(StandIn(), path, health_s=1000), client(path, silence_s=0.05) as through:
        assert through.health().alive
        await until(lambda: not through.health().alive)
        assert "not heard of" in through.health().detail


async def test_without_an_engine_opening_says_so(path: Path) -> None:
    engine = SocketEngine(path, patience=Patience(open_s=0.1, pause_s=0.01))
    with pytest.raises(ClassifierError, match=f"no engine can be reached at {path}") as refused:
        await engine.open()
    assert refused.value.code == "crash"
    with pytest.raises(ClassifierError):
        _ = engine.info
    assert not engine.health().alive
    await engine.aclose()


async def test_closing_fails_who_waits(path: Path) -> None:
    stuck = StandIn()
    async with EngineServer(stuck, path), client(path) as through:
        waiting = asyncio.create_task(through.ask([ask(STUCK)]))
        await stuck.arrived.wait()
        await through.aclose()
        await through.aclose()
        assert [answer.code for answer in await waiting] == ["crash"]
        assert [answer.code for answer in await through.ask([ask(1)])] == ["crash"]


async def test_the_socket_is_this_users_alone(path: Path) -> None:
    async with EngineServer(StandIn(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    path.parent.chmod(0o755)
    with pytest.raises(GuardrailError, match="mode 0700"):
        await EngineServer(StandIn(), path).__aenter__()
    path.parent.chmod(0o700)
    with pytest.raises(GuardrailError, match="more than 100 bytes"):
        await EngineServer(StandIn(), path.parent / ("x" * 100)).__aenter__()


STRANGER = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(10)
    connection.connect(sys.argv[1])
    try:
        print(len(connection.recv(1)))
    except ConnectionResetError:
        print(0)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can be another user too")
async def test_another_user_is_refused_even_where_permissions_would_let_him(path: Path) -> None:
    async with EngineServer(StandIn(), path):
        path.parent.chmod(0o755)
        path.chmod(0o666)
        command = [sys.executable, "-c", STRANGER, str(path)]
        said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=True)
        assert said.stdout == "0\n"
        async with client(path) as through:
            assert through.health().alive


def test_it_works_on_the_workers_event_loop_too(path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def exchange() -> None:
        async with no_defects():
            first, second = StandIn(), StandIn()
            async with EngineServer(first, path) as server, client(path) as through:
                await through.prepare([PREFIX], deadline=time.monotonic() + 9)
                assert await through.ask([ask(5)]) == [told(PREFIX.tokens, [5])]
                waiting = asyncio.create_task(through.ask([ask(STUCK)]))
                await first.arrived.wait()
                await server.__aexit__(None, None, None)
                assert [answer.code for answer in await waiting] == ["crash"]
                async with EngineServer(second, path), asyncio.timeout(10):
                    await through.up()
                    assert await through.ask([ask(5)]) == [told(PREFIX.tokens, [5])]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(exchange())
