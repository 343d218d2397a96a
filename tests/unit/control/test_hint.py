"""What an agent is told, and when it is told again."""

from __future__ import annotations

import pytest

from rung.control.hint import TELL_AGAIN_SECONDS, Hint


async def test_a_hint_is_told_where_it_changed_and_now_and_then_and_after_a_failure() -> None:
    told: list[str] = []
    now = 0.0
    fails = False

    async def tell(what: str) -> None:
        if fails:
            raise ConnectionError
        told.append(what)

    hint = Hint(tell, lambda: now)
    await hint.say("a")
    await hint.say("a")
    assert told == ["a"]
    await hint.say("b")
    assert told == ["a", "b"]
    now = TELL_AGAIN_SECONDS
    await hint.say("b")
    assert told == ["a", "b", "b"], "it may have been lost"
    fails = True
    with pytest.raises(ConnectionError):
        await hint.say("c")
    fails = False
    await hint.say("b")
    assert told == ["a", "b", "b", "b"], "what came of the failed call is not known"
