"""Texts to token batches: BOS first, right-padded, lengths carried; and word problems of our own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
