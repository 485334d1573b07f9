"""What a process that serves does about its own memory."""

import gc

from guardrail.cli.listen import long_lived


def test_what_was_there_before_serving_is_not_searched_for_garbage_until_it_ends():
    before = gc.get_freeze_count()
    with long_lived():
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < 10_000
    assert gc.get_freeze_count() == 0


def test_what_is_on_its_way_out_is_searched_for_garbage_less_often_while_serving():
    before = gc.get_threshold()
    with long_lived():
        assert gc.get_threshold()[0] > 4_000  # 64 records that wait for the audit store
        assert gc.get_threshold()[1:] == before[1:]
    assert gc.get_threshold() == before
