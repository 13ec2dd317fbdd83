"""Results on disk: one sealed netCDF file each, and what it must hold to be read again."""

from mcr_lens.result_files.netcdf import (
    check_place,
    check_result_place,
    read_dataset,
    write_dataset,
)
from mcr_lens.result_files.profile_shape import STACKED, SUMMARY_OF_DEPTH, check_profile

__all__ = [
    "STACKED",
    "SUMMARY_OF_DEPTH",
    "check_place",
    "check_profile",
    "check_result_place",
    "read_dataset",
    "write_dataset",
]
