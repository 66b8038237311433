"""All ConfigMaps as one immutable value.

Each module beside this one parses one ConfigMap of the control plane's namespace into a frozen dataclass; `Config`
is all of them together, handed to every reconcile. A bad update keeps the old value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    pass
