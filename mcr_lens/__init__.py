"""Where attention sinks, massive activations and compression valleys begin, and what causes them.

Everything public is an attribute of this module, imported when first used: ``import mcr_lens as mcr``
alone loads neither torch nor TransformerLens. ``__init__.pyi`` lists the names.
"""

import lazy_loader as lazy

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
