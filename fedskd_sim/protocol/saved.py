"""A hospital's state as plain values, for custody: what a restart needs of it, and nothing that
begins anew with a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedskd_sim.messages import HopId
from fedskd_sim.protocol.events import Model
from fedskd_sim.protocol.state import Departure, State


def dump(state: State) -> dict[str, Any]:
    """Write a state as values that JSON has; of models their handles' numbers."""
    return {
        "cursor": state.cursor,
        "rollbacks": state.rollbacks,
        "waiting": [[*hop, model.number, model.digest] for hop, model in state.waiting.items()],
        "outbox": [
            [*hop, to, model.number, model.digest] for hop, (to, model, *_) in state.outbox.items()
        ],
        "recent": [[*hop, digest] for hop, digest in state.recent.items()],
    }


def parse(values: Mapping[str, Any]) -> State:
    """Read what `dump` has written.

    Raises:
        ValueError, TypeError, KeyError: it is something else.

    """
    size = len(HopId._fields)
    waiting = {_hop(entry[:size]): _model(*entry[size:]) for entry in values["waiting"]}
    outbox = {
        _hop(entry[:size]): Departure(str(entry[size]), _model(*entry[size + 1 :]))
        for entry in values["outbox"]
    }
    recent = {_hop(entry[:size]): str(entry[size]) for entry in values["recent"]}
    return State(
        cursor=int(values["cursor"]),
        rollbacks=int(values["rollbacks"]),
        waiting=waiting,
        outbox=outbox,
        recent=recent,
    )


def handles(state: State) -> dict[int, Model]:
    """Give the models that a state speaks of, by their numbers."""
    models = [
        *state.waiting.values(),
        *(one.model for one in state.outbox.values()),
        *(state.parting or ())[2:],
    ]
    return {model.number: model for model in models}


def _hop(values: list[Any]) -> HopId:
    run, epoch, model, round_, hop = values
    return HopId(str(run), int(epoch), str(model), int(round_), int(hop))


def _model(number: Any, digest: Any) -> Model:
    return Model(int(number), str(digest))
