"""For authors of plugins: what holds for every attack, defense and detector, checked on small random data.

The names and where they live are in `__init__.pyi`; they load on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
