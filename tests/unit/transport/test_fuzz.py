"""Whatever comes over a link, decoding it is quick, needs little memory, and raises BadMessage
or nothing.
"""

from __future__ import annotations

import time
import tracemalloc

import msgpack
import pytest
from fuzzer import CONTROL, LIMITS, Fuzzer, judge

from fedskd_sim.errors import BadMessage
from fedskd_sim.transport.wire import Limits, decode

INPUTS = 10_000
MEMORY = 4 << 20
SECONDS = 1.0


@pytest.mark.slow
def test_ten_thousand_inputs_do_no_harm() -> None:
    """No stray exception, no second of computing and no 4 MiB for any of many bent messages; the
    honest among them are accepted.
    """
    accepted = 0
    for number in range(INPUTS):
        messages = Fuzzer(1, number).messages
        tracemalloc.start()
        begun = time.thread_time()
        try:
            accepted += judge(messages)
            peak = tracemalloc.get_traced_memory()[1]
        except Exception as error:
            error.add_note(f"Fuzzer(1, {number})")
            raise
        finally:
            tracemalloc.stop()
        assert time.thread_time() - begun < SECONDS, number
        assert peak < MEMORY, number
    assert INPUTS / 10 < accepted < INPUTS * 2


@pytest.mark.parametrize("limits", [CONTROL, LIMITS, Limits(1 << 20, 1 << 20)])
@pytest.mark.parametrize(
    "opener",
    [
        b"\xdd%b",
        b"\xdf%b",
        b"\xdc\xff\xff",
        b"\x91",
        b"\x81\xa1k",
        b"\x81\x91",
        b"\xdb%b",
        b"\xc9%b",
        b"\x80",
        b"\x90",
    ],
)
def test_a_frame_of_lists_and_mappings_without_end_costs_nothing(
    opener: bytes, limits: Limits
) -> None:
    """Lists in lists that promise thousands of items each are found before memory is taken, even
    where limits are generous.
    """
    opener = opener.replace(b"%b", limits.items.to_bytes(4, "big"))
    frame = (opener * (limits.size // len(opener)))[: limits.size]
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            decode([frame], limits)
        assert tracemalloc.get_traced_memory()[1] < 12 * limits.size + MEMORY
    finally:
        tracemalloc.stop()


def test_the_fuzzer_makes_the_same_input_again() -> None:
    """A seed and a number are all that is needed to look at an input; every kind of header is
    among the first few.
    """
    assert Fuzzer(1, 7).messages == Fuzzer(1, 7).messages != Fuzzer(2, 7).messages
    seen = set()
    for number in range(500):
        for frames in Fuzzer(1, number).messages:
            try:
                _, kind, _ = msgpack.unpackb(frames[0])
                seen.add(str(kind))
            except Exception:  # noqa: BLE001 - it is bent
                continue
    assert len(seen) >= 9


def test_a_judge_that_sees_harm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is none of the decoder's reaches whoever fuzzes."""
    monkeypatch.setattr("fuzzer.decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge(Fuzzer(1, 1).messages)
