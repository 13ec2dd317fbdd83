"""Pictures of results: each takes what was measured and computes nothing.

Every name is imported when it is first used: a figure of a saved profile loads neither torch nor
TransformerLens.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
