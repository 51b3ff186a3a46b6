"""robench: train defenses, attack them, and re-check every figure. This is the public face; names load on first use.

The names and where they live are in `__init__.pyi`, so that `robench --help` needs no torch and type checkers see them.
"""

import os

import lazy_loader

from robench import model_files as model_files  # finds the modules of models' files where their objects are unpickled

# Every process of robench begins here: command line, program, Ray's workers, pytest. MKL sums in an order that depends
# on where tensors lie in memory, unless it is told not to before its first product; what the user has set stands.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# OpenMP's threads wait in a loop of 300,000 turns before they let go of a core, which beside other busy processes makes
# small networks ten times as slow and larger ones three times; with 300 turns an idle machine is as fast as before.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "300")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
