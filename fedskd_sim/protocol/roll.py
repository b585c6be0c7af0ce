"""What the controller remembers: who is there, who is lost, and who is coming back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedskd_sim.messages import End, Epoch, Register, Start
from fedskd_sim.routes import NO_RETURN, NOBODY, Lost, Returns, code, epoch


@dataclass(frozen=True, slots=True)
class RegistrarState:
    """What the controller must remember."""

    registered: Mapping[str, Register] = field(default_factory=dict)
    done: frozenset[str] = frozenset()
    suspected: End | None = None
    """How the run will end unless a better cause is told soon: others wait in vain for the same
    culprit, some nearer to it."""
    ended: End | None = None
    lost: Lost = field(default_factory=lambda: NOBODY)
    """Hospitals that are or were lost; see `fedskd_sim.routes`."""
    back: Returns = field(default_factory=lambda: NO_RETURN)
    """Their returns, those too of which not all have heard."""
    admitted: frozenset[str] = frozenset()
    """Those who have been told that they are back."""
    asking: str = ""
    """Whose return this controller has asked about last."""
    holds: Mapping[str, int] = field(default_factory=dict)
    """The epoch that each hospital is known to have in custody."""
    opened: bool = False
    """The address book has left."""
    round: int = 0
    """The last round of which a hospital has told."""
    told: Mapping[str, int] = field(default_factory=dict)
    """... and that each of them has told of."""
    far: int = 0
    """The last round that a hospital is known to have begun."""

    @property
    def away(self) -> frozenset[str]:
        """Hospitals without which the ring goes on."""
        return frozenset(
            name for name in self.lost if (back := self.back.get(name)) is None or back.away
        )

    @property
    def asked(self) -> frozenset[str]:
        """Hospitals whose return the others are asked to take in."""
        return frozenset(self.back) - self.away - self.admitted

    @property
    def returned(self) -> Returns:
        """Returns that are facts: of which all that are left have known, or that are over."""
        return {name: back for name, back in self.back.items() if name not in self.asked}

    @property
    def guests(self) -> frozenset[str]:
        """Hospitals that are not, or not yet, of the ring."""
        return self.away | self.asked

    @property
    def epoch(self) -> int:
        """The number of the present epoch."""
        return epoch(self.lost, self.back)

    @property
    def word(self) -> Epoch:
        """Say who is lost and who is back."""
        texts = {
            name: f"{retires} {code(self.back[name])}" if name in self.back else f"{retires}"
            for name, retires in self.lost.items()
        }
        return Epoch(self.epoch, texts)

    def book(self, epoch: int) -> Start:
        """Give the address book."""
        addresses = {name: entry.address for name, entry in self.registered.items()}
        keys = {name: entry.public_key for name, entry in self.registered.items()}
        return Start(epoch, addresses, keys)
