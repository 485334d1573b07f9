"""The fuzz finds nothing in the stream guard, and something in each one that is broken."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner

from guardrail import boundary, window_part
from guardrail.cli import commands
from guardrail.evaluation.stream_cases import Cases
from guardrail.evaluation.stream_fuzz import fuzz, make_flow
from guardrail.window_part import PartFlow

SOON = 500  # chunkings: a fraction of a second where the machine is free


def test_the_stream_guard_keeps_its_promises() -> None:
    found = fuzz(7, seconds=60, chunkings=SOON)
    assert found.failed is None, found.why
    counts = found.counts
    assert counts.chunkings == SOON
    assert min(counts.windows, counts.blocks, counts.redactions, counts.overflows) > 0
    assert counts.leaks == counts.failures == 0


def early(release: Callable[[PartFlow, int], str]) -> Callable[[PartFlow, int], str]:
    return lambda flow, place: release(flow, min(place + 1, flow._size))


def test_one_character_too_early_is_found_at_once_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartFlow, "_release_to", early(PartFlow._release_to))
    found = fuzz(7, seconds=60, chunkings=SOON)
    assert found.failed is not None
    assert found.counts.failures == 1
    assert found.failed.size <= 20


def test_an_overlap_that_is_not_kept_is_found() -> None:
    def short(case, placeholder):
        overlap = case.streaming.overlap // 2
        return make_flow(replace(case, streaming=replace(case.streaming, overlap=overlap)), placeholder)

    assert "violate" in fuzz(3, seconds=60, chunkings=4 * SOON, make=short).why


@pytest.mark.parametrize(
    ("place", "name", "broken"),
    [
        (PartFlow, "add", lambda flow, text, whole=PartFlow.add: whole(flow, text[:-1] if len(text) > 3 else text)),
        (PartFlow, "settled", property(lambda flow: True)),
        (PartFlow, "settle", lambda flow, number, ruling: True),
        (window_part, "last_boundary", lambda text, anchor, low, high: high if high > low else None),
        (window_part, "whole_code_points", lambda text: (text, "")),
        (boundary, "LONGEST_WORD", 1),
        (PartFlow, "_outside_placeholders", lambda flow, place: place - 1),
    ],
)
def test_what_is_broken_is_found(monkeypatch: pytest.MonkeyPatch, place: object, name: str, broken: object) -> None:
    monkeypatch.setattr(place, name, broken)
    assert fuzz(7, seconds=60, chunkings=SOON).failed is not None


def test_equal_seeds_give_equal_cases() -> None:
    first, second, other = Cases(1), Cases(1), Cases(2)
    cases = [first.next() for _ in range(5)]
    assert cases == [second.next() for _ in range(5)]
    assert cases != [other.next() for _ in range(5)]


def test_the_command_prints_its_counts() -> None:
    ran = CliRunner().invoke(commands, ["bench", "fuzz", "--chunkings", "30", "--seed", "5", "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.output)
    assert (told["chunkings"], told["leaks"], told["failures"], told["seed"]) == (30, 0, 0, 5)
    assert "30" in CliRunner().invoke(commands, ["bench", "fuzz", "--chunkings", "30"]).output


def test_the_command_exits_1_with_the_smallest_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartFlow, "_release_to", early(PartFlow._release_to))
    ran = CliRunner().invoke(commands, ["bench", "fuzz", "--seconds", "20", "--seed", "7"])
    assert ran.exit_code == 1
    assert "A promise was broken" in ran.output
    assert json.loads(ran.output[ran.output.index("{") :])["pieces"]
