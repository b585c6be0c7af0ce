"""The other end of a link without a link: messages as they were packed, put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedskd_sim.messages import Allocate, Chunk, Forms, Message, Traveller
from fedskd_sim.transport.chunks import Assembly
from fedskd_sim.transport.wire import Frame, Limits, bad, chunk, decode, header, read_announcement


def unpack_message(
    messages: Sequence[Sequence[Frame]],
    expected: Mapping[str, Forms],
    allocate: Allocate,
    limits: Limits,
) -> Message:
    """Undo `pack_message`; raises as `decode`, `read_announcement` and `Assembly.add`."""
    kind, values = header(messages[0], limits)
    if kind is not Traveller:
        return decode(messages[0], limits)
    assembly = Assembly(*read_announcement(values, expected), allocate)
    for label, *frames in messages[1:]:
        kind, values = header([label])
        if kind is not Chunk:
            break
        arrived = assembly.add(chunk(values), frames)
        if arrived:
            return arrived
    raise bad("a model ends before its last chunk")
