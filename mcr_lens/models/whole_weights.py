"""No model with random numbers where its files have none."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from transformers import modeling_utils

from mcr_lens.errors import InputError

__all__ = ["whole_weights"]

# Where transformers tells what it found in the files, once all is loaded.
_REPORT = "log_state_dict_report"
_NAMED = 3


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Around the loaders of other libraries: weights that the files lack are refused.

    Transformers draws them at random and says so in a log, which is how a model begins that is to be trained;
    what is measured of one means nothing.

    Raises:
        InputError: that names the first weights that are missing.
    """
    report = getattr(modeling_utils, _REPORT, None)
    if report is None:  # another version, which has another way to tell
        yield
        return

    def refuse(*arguments: Any, **named: Any) -> None:
        missing = sorted(getattr(named.get("loading_info"), "missing_keys", None) or ())
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise InputError(
                f"{named.get('pretrained_model_name_or_path')}: the files lack {', '.join(missing[:_NAMED])}"
                f"{more}, which would be random numbers; download the model again, or mend its config.json"
            )
        report(*arguments, **named)

    with mock.patch.object(modeling_utils, _REPORT, refuse):
        yield
