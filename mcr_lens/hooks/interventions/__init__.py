"""Interventions: plain lists of ``(hook name, function)`` that edit what a model computes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
