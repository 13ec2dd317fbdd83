"""Lists of ``(hook name, function)``: observers that read, interventions that edit, and their context."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
