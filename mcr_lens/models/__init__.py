"""Models: loading, what is known of them, their memory, and the seam between TransformerLens lines."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
