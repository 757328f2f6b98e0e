"""Do the imports that Python puts off until first use, before privileges are dropped.

A worker's user may be unable to read the interpreter's library, for example below a closed home directory. Then a late
import fails in the packet path, and the agent's connection dies.
"""

from __future__ import annotations

import codecs

from egress.policy.domain import normalise

CODECS = ("ascii", "latin-1", "utf-8", "idna", "punycode", "unicode_escape")
NAMES = ("bücher.example", "xn--bcher-kva.example", "xn--a.example")  # to be mapped, to be decoded, not valid


def load() -> None:
    """Import all modules that the packet path may need, so that it imports nothing later."""
    for codec in CODECS:
        codecs.lookup(codec)
    for name in NAMES:
        try:
            normalise(name)
        except ValueError:
            continue
