"""What keys and words of a scenario were called before, so that an old file is told what to
write instead; nothing reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "council": "ensemble",
        "class_offset": "logit_adjustment",
        "slow_weight": "averaging_weight",
        "lock": "self_distillation",
        "lock_kl": "self_distillation_kl",
        "receipt": "acknowledgement",
    }
)
VALUES: Mapping[str, str] = MappingProxyType({"slow": "averaged"})
MOVED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("behaviour", "culprit"),
        "write 'faults: [{hospital: ..., what: ...}]' at the top level, for every algorithm",
    )
)
"""What has another form now, in words."""
