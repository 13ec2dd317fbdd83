from .concat import concat_datasets
from .describe import caveats, findings
from .io import atomic_write, check_place, load_dataset, save_dataset
from .profile import Profile
from .result import Result, as_result, load

__all__ = [
    "Profile",
    "Result",
    "as_result",
    "atomic_write",
    "caveats",
    "check_place",
    "concat_datasets",
    "findings",
    "load",
    "load_dataset",
    "save_dataset",
]
