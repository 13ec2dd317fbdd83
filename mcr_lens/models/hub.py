"""The Hugging Face hub: asked once whether it answers, so that without a network nothing is waited for."""

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from unittest import mock

from mcr_lens.errors import one_line

__all__ = ["hub_or_cache", "hub_silence"]

# Seconds; the hub's own variable for slow connections says otherwise.
_PATIENCE = 3.0


@contextlib.contextmanager
def hub_or_cache() -> Iterator[str | None]:
    """Around what loads by name: where the hub does not answer, only the local cache is read.

    The hub's clients try every file of a model again and again, half a minute in all, before they look into
    the cache. Here one short request is made first; without an answer they are switched to their offline
    mode for the time being, as ``HF_HUB_OFFLINE=1`` does for good.

    Yields:
        Why the hub does not answer and what to do, for an error message; ``None`` where it does.
    """
    from huggingface_hub import constants

    silence = hub_silence()
    if silence is None or constants.HF_HUB_OFFLINE:
        yield silence
        return
    # Both libraries read their variable once, at import; the maintainers' way to change it later is this
    # constant. ``datasets`` must be there first: imported inside, it would copy what holds for now.
    from datasets import config

    switch = partial(mock.patch.object, attribute="HF_HUB_OFFLINE", new=True)
    with switch(constants), switch(config):
        yield silence


def hub_silence() -> str | None:
    """Why the hub cannot be asked, and what to do; ``None`` where it answers anything at all, be it an error.

    Asked is ``HF_ENDPOINT``, through the hub's own client, which knows proxies and certificates. It has
    3 seconds, or ``HF_HUB_ETAG_TIMEOUT`` where that is set.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "the hub may not be asked: unset HF_HUB_OFFLINE"
    patience = float(constants.HF_HUB_ETAG_TIMEOUT) if os.environ.get("HF_HUB_ETAG_TIMEOUT") else _PATIENCE
    outcome = [f"no answer in {patience:g} s; HF_HUB_ETAG_TIMEOUT=30 waits longer"]

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=patience, follow_redirects=False)
            outcome[0] = ""
        except Exception as error:  # names, sockets, proxies and certificates fail each in its own way
            outcome[0] = one_line(error, 120) or type(error).__name__

    # The limit of the client does not cover looking up the name, which may hang much longer.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience + 0.5)
    return f"{constants.ENDPOINT} does not answer ({outcome[0]}): connect" if outcome[0] else None
