"""Results: labelled data with a summary, sentences and tables, and one file on disk; no torch in here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
