"""What a process that serves does about its own memory."""

import gc

from guardrail.cli.listen import long_lived


def test_what_was_there_before_serving_is_not_searched_for_garbage_until_it_ends():
    before = gc.get_freeze_count()
    with long_lived():
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < 10_000
    assert gc.get_freeze_count() == 0
