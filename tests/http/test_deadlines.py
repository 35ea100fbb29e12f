"""One timer serves all waits: each ends at its own time, and a cancellation for another reason is kept."""

from __future__ import annotations

import asyncio
import sys

import pytest

from parallel_openai._http.deadlines import Deadlines
from tests.limits.virtual import VirtualLoop, run_virtually


async def wait(deadlines: Deadlines, seconds: float) -> str:
    """How a wait of so many seconds ended, and when."""
    loop = asyncio.get_running_loop()
    mine = deadlines.begin(loop.time())
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not mine.ended():
            raise
        return f"over at {loop.time():g}"
    finally:
        deadlines.end(mine)
    return f"answered at {loop.time():g}"


def test_each_timeout_fires_at_its_own_time() -> None:
    loop = VirtualLoop()

    async def main() -> list[str]:
        deadlines = Deadlines(10.0, loop.time)
        tasks = []
        for seconds in (3.0, 30.0, 9.0, 40.0):
            tasks.append(asyncio.ensure_future(wait(deadlines, seconds)))
            await asyncio.sleep(1.0)
        return await asyncio.gather(*tasks)

    assert run_virtually(main(), loop) == ["answered at 3", "over at 11", "answered at 11", "over at 13"]


def test_a_task_can_continue_after_its_timeout() -> None:
    loop = VirtualLoop()

    async def main() -> list[str]:
        deadlines = Deadlines(10.0, loop.time)
        return [await wait(deadlines, seconds) for seconds in (30.0, 5.0, 30.0)]

    assert run_virtually(main(), loop) == ["over at 10", "answered at 15", "over at 25"]


@pytest.mark.parametrize("at", [4.0, 10.0])
def test_a_cancellation_by_others_is_not_taken_for_a_timeout(at: float) -> None:
    if sys.version_info < (3, 11) and at == 10.0:
        return  # there two cancellations at the same moment cannot be told from one
    loop = VirtualLoop()

    async def main() -> bool:
        task = asyncio.ensure_future(wait(Deadlines(10.0, loop.time), 30.0))
        loop.call_at(at, task.cancel)
        await asyncio.wait([task])
        return task.cancelled()

    assert run_virtually(main(), loop)


def test_no_timer_fires_after_the_end() -> None:
    loop = VirtualLoop()

    async def main() -> float:
        deadlines = Deadlines(10.0, loop.time)
        await wait(deadlines, 1.0)
        deadlines.close()
        await asyncio.sleep(100.0)
        return loop.time()

    assert run_virtually(main(), loop) == 101.0


def test_a_late_timer_lets_arrived_answers_be_read_first() -> None:
    loop = VirtualLoop()

    async def main() -> list[str]:
        late = 0.0  # what the clock is ahead, as after a process was suspended
        deadlines = Deadlines(10.0, lambda: loop.time() + late)

        async def wait_suspended(arrives: float) -> str:
            mine = deadlines.begin(loop.time())
            try:
                await asyncio.sleep(arrives)
            except asyncio.CancelledError:
                assert mine.ended()
                return f"over at {loop.time():g}"
            finally:
                deadlines.end(mine)
            return f"answered at {loop.time():g}"

        tasks = [asyncio.ensure_future(wait_suspended(seconds)) for seconds in (10.1, 30.0)]
        await asyncio.sleep(1.0)
        late = 60.0
        return await asyncio.gather(*tasks)

    assert run_virtually(main(), loop) == ["answered at 10.1", "over at 10.5"]
