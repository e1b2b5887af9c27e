"""What a deploy that takes long leaves to others."""

from __future__ import annotations

import asyncio
import time

from cellstore.runtime.deploying import _OTHERS_SHARE, _give_way


def given_up(step_s: float, work_s: float) -> float:
    """How long a deploy waits after a step that took `step_s`, when somebody on the loop has work for `work_s`."""

    def work() -> None:
        over = time.perf_counter() + work_s
        while time.perf_counter() < over:
            pass

    async def deploy() -> float:
        asyncio.get_running_loop().call_soon(work)
        begun = time.perf_counter()
        await _give_way(step_s)
        return time.perf_counter() - begun

    return asyncio.run(deploy())


def test_while_others_have_something_to_do_most_of_the_time_is_theirs() -> None:
    assert given_up(step_s=0.05, work_s=0.002) >= _OTHERS_SHARE * 0.05 > 0.05


def test_with_the_loop_to_itself_a_deploy_does_not_wait() -> None:
    assert min(given_up(step_s=5, work_s=0) for _ in range(3)) < 5
