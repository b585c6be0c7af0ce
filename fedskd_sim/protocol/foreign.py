"""A hospital whose words are of another version of the program, as one from an older image: it can
never register, so nobody waits for it.
"""

from __future__ import annotations

from fedskd_sim.errors import CodeDiffers
from fedskd_sim.messages import End
from fedskd_sim.protocol.controller import Registrar, Turn
from fedskd_sim.protocol.controller_effects import Rejected
from fedskd_sim.protocol.roll import RegistrarState


def refuse(
    registrar: Registrar, state: RegistrarState, rejected: Rejected, *, foreign: bool
) -> Turn:
    """Refuse what no member would say; if it is ``foreign``, the first word of a hospital of the
    run and in another version of the wire, the run ends before it starts.
    """
    first = rejected.hospital in {*registrar.scenario.names} - {*state.registered}
    if not (foreign and first) or state.opened or state.ended is not None:
        return state, [rejected]
    text = f"{rejected.hospital!r} has another version of the program: {rejected.reason}"
    ended, ending = registrar.end(state, End(registrar.epoch, CodeDiffers.exit_code, text))
    return ended, [rejected, *ending]
