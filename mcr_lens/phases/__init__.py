"""Mix, Compress, Refine: where the phases begin and end, how sure that is, and what moves with what.

Everything here reads a profile (or its dataset) against thresholds that are arguments and are stored in
the answer; "no compression phase" is one of the answers. The unit of every interval is the prompt.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
