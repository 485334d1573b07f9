"""What the engine's two sides say to one another, as frames.

| kind | from | says |
|---|---|---|
| hello | both, first | the protocol's version; the engine adds what it serves |
| prepare, ask | client | a numbered question; each gets one answer unless it is cancelled |
| cancel, forget | client | a question is not wanted any more; a stream is over |
| prepared, answers | engine | the answer to one `prepare`; the answers to as many `ask`s as were ready at once |
| health | engine | how it is, unasked and regularly |
| fault | engine | one sentence, then the connection ends |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix, Read, Told
from guardrail.engine.cope.process.records import document, record
from guardrail.engine.cope.process.wire import VERSION, Frame, FrameError
from guardrail.errors import ClassifierError

ENTRIES_A_FRAME = 4096
"""Most asks or prefixes of one question."""

LONGEST_SENTENCE = 500

Answer = Told | ClassifierError


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to one `ask`, in order."""

    number: int
    answers: Sequence[Answer]


def hello(info: EngineInfo | None = None) -> Frame:
    """The first frame of either side; the engine's has `info`."""
    return Frame("hello", {"version": VERSION, "info": None if info is None else document(info)})


def hello_of(frame: Frame) -> EngineInfo | None:
    """The engine's info, None from a client. Raises FrameError when the other side speaks another version, or said something else."""
    version = _expect(frame, "hello", "version", "info")["version"]
    if version != VERSION:
        raise FrameError(f"the other side speaks version {version!r} of the engine's protocol, this one {VERSION}; restart both")
    info = frame.fields["info"]
    return None if info is None else record(EngineInfo, info)


def asked(number: int, asks: Sequence[Ask]) -> Frame:
    """A client's question."""
    entries = [document(ask, without=("tokens",)) for ask in asks]
    return Frame("ask", {"number": number, "asks": entries}, tuple(ask.tokens for ask in asks))


def asks_of(frame: Frame) -> tuple[int, list[Ask]]:
    """Its number and what it asks. Raises FrameError."""
    said = _expect(frame, "ask", "number", "asks")
    pairs = _with_tokens(said["asks"], frame)
    asks = [record(Ask, entry, tokens=tokens) for entry, tokens in pairs]
    for ask in asks:
        if not 0 <= ask.keep <= len(ask.tokens):
            raise FrameError(f"an ask keeps {ask.keep} of its {len(ask.tokens)} tokens")
    return _number(said["number"]), asks


def preparing(number: int, prefixes: Sequence[Prefix], deadline: float) -> Frame:
    """A client's wish for resident prefixes."""
    entries = [document(prefix, without=("tokens",)) for prefix in prefixes]
    said = {"number": number, "deadline": float(deadline), "prefixes": entries}
    return Frame("prepare", said, tuple(prefix.tokens for prefix in prefixes))


def prefixes_of(frame: Frame) -> tuple[int, list[Prefix], float]:
    """Its number, the prefixes and the deadline. Raises FrameError."""
    said = _expect(frame, "prepare", "number", "deadline", "prefixes")
    if not isinstance(said["deadline"], float):
        raise FrameError("a deadline is a number of seconds")
    prefixes = [record(Prefix, entry, tokens=tokens) for entry, tokens in _with_tokens(said["prefixes"], frame)]
    return _number(said["number"]), prefixes, said["deadline"]


def prepared(number: int, error: ClassifierError | None) -> Frame:
    """The answer to `prepare`."""
    return Frame("prepared", {"number": number, "error": None if error is None else _said(error)})


def prepared_of(frame: Frame) -> tuple[int, ClassifierError | None]:
    """Its number, and what went wrong if anything did. Raises FrameError."""
    said = _expect(frame, "prepared", "number", "error")
    return _number(said["number"]), None if said["error"] is None else _error(said["error"])


def answered(batch: Sequence[Answered]) -> Frame:
    """The answers that were ready at once."""
    numbers: list[float] = []
    entries = []
    for question in batch:
        told: list[list[Any]] = []
        for answer in question.answers:
            if isinstance(answer, ClassifierError):
                told.append(_said(answer))
                continue
            read = answer.read
            numbers += (read.zero, read.one, read.log_total, *read.probe)
            told.append([answer.tokens_run, read.bucket, len(read.probe)])
        entries.append([question.number, told])
    return Frame("answers", {"answers": entries}, (np.array(numbers, np.float64),))


def answers_of(frame: Frame) -> list[Answered]:
    """Who is answered what. Raises FrameError."""
    entries = _expect(frame, "answers", "answers")["answers"]
    if len(frame.arrays) != 1 or frame.arrays[0].dtype != np.float64 or not isinstance(entries, list):
        raise FrameError("answers carry one array of numbers")
    numbers, start, found = frame.arrays[0].tolist(), 0, []
    for entry in entries:
        match entry:
            case [number, list(told)]:
                answers: list[Answer] = []
                for item in told:
                    answer, start = _answer(item, numbers, start)
                    answers.append(answer)
                found.append(Answered(_number(number), answers))
            case _:
                raise FrameError("an answer says what it answers")
    if start != len(numbers):
        raise FrameError(f"answers of {start} numbers, but {len(numbers)} came")
    return found


def cancel(number: int) -> Frame:
    """Nobody waits for question `number` any more."""
    return Frame("cancel", {"number": number})


def cancel_of(frame: Frame) -> int:
    """Its number. Raises FrameError."""
    return _number(_expect(frame, "cancel", "number")["number"])


def forget(stream: str) -> Frame:
    """A stream is over."""
    return Frame("forget", {"stream": stream})


def forget_of(frame: Frame) -> str:
    """The stream's name. Raises FrameError."""
    return _text(_expect(frame, "forget", "stream")["stream"])


def well(health: Health) -> Frame:
    """How the engine is."""
    return Frame("health", document(health))


def health_of(frame: Frame) -> Health:
    """How it is. Raises FrameError."""
    return record(Health, dict(frame.fields))


def fault(sentence: str) -> Frame:
    """Why the connection ends now."""
    return Frame("fault", {"sentence": sentence[:LONGEST_SENTENCE]})


def fault_of(frame: Frame) -> str:
    """The sentence. Raises FrameError."""
    return _text(_expect(frame, "fault", "sentence")["sentence"])


def _expect(frame: Frame, kind: str, *names: str) -> dict[str, Any]:
    if frame.kind != kind or frame.fields.keys() != set(names):
        raise FrameError(f"a frame {frame.kind!r} where {kind!r} with {', '.join(names)} was expected")
    return dict(frame.fields)


def _with_tokens(entries: object, frame: Frame) -> list[tuple[object, NDArray[np.int32]]]:
    if not isinstance(entries, list) or len(entries) != len(frame.arrays):
        raise FrameError(f"a frame {frame.kind!r} has one array of tokens for each of its entries")
    if len(entries) > ENTRIES_A_FRAME:
        raise FrameError(f"a frame {frame.kind!r} of {len(entries)} entries; {ENTRIES_A_FRAME} are the most")
    if any(array.dtype != np.int32 for array in frame.arrays):
        raise FrameError("tokens are int32")
    return list(zip(entries, frame.arrays, strict=True))


def _answer(item: object, numbers: list[float], start: int) -> tuple[Answer, int]:
    match item:
        case [str(), str()]:
            return _error(item), start
        case [int(tokens_run), int(bucket), int(probe)] if probe >= 0 and start + 3 + probe <= len(numbers):
            zero, one, log_total = numbers[start : start + 3]
            end = start + 3 + probe
            return Told(Read(zero, one, log_total, bucket, tuple(numbers[start + 3 : end])), tokens_run), end
    raise FrameError("an answer is a reading with its numbers, or an error")


def _said(error: ClassifierError) -> list[Any]:
    return [error.code, str(error)[:LONGEST_SENTENCE]]


def _error(item: object) -> ClassifierError:
    match item:
        case [str(code), str(message)]:
            return ClassifierError(code, message)
    raise FrameError("an error is a code and a sentence")


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise FrameError("a question has a number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FrameError("a name or a sentence is text")
    return value
