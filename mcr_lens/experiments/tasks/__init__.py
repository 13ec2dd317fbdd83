"""What each depth is good for: generation, multiple choice, embeddings; and where one could stop."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
