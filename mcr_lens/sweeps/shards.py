"""The prompts of one cell in parts, for several workers, and the parts' profiles as one again."""

from collections.abc import Sequence
from itertools import accumulate

import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.prompts import Prompts
from mcr_lens.results import Profile

__all__ = ["merged", "shard", "with_whole"]


def shard(prompts: Prompts, index: int, count: int) -> Prompts | None:
    """Part ``index`` of ``count``: neighbouring prompts, about as many tokens in each part.

    A function of the prompts and the two numbers alone, so that a sweep that goes on cuts as it did before.
    A prompt is in the part in which the middle of its tokens lies. ``None`` for a part that is empty, as some
    are when there are fewer prompts than parts, or one long prompt.

    Example:
        >>> prompts = Prompts.from_tokens([[1, 2, 3, 4], [1, 2], [1, 2], [1, 2, 3, 4]])
        >>> [len(shard(prompts, index, 2)) for index in (0, 1)]
        [2, 2]
        >>> shard(prompts, 1, 99) is None
        True
    """
    ends = list(accumulate(prompts.lengths))
    # In halves of a token, so that whole numbers decide.
    middles = [2 * end - length for end, length in zip(ends, prompts.lengths, strict=True)]
    inside = [i for i, middle in enumerate(middles) if middle * count // (2 * ends[-1]) == index]
    return prompts[inside[0] : inside[-1] + 1] if inside else None


def with_whole(part: Profile, prompts: Prompts) -> Profile:
    """The profile of a part, in which stands what the profile of all the prompts will say of them."""
    part.data.attrs |= {"prompts": prompts.attributes(), "n_prompts": len(prompts)}
    return part


def merged(parts: Sequence[Profile]) -> Profile:
    """The profile of all prompts, from those of the parts in order, each by ``with_whole``.

    Raises:
        InputError: when a part is missing, or the parts were not measured in the same way: of other prompts,
            on other devices, or with other versions of a package.
    """
    first = parts[0].data.attrs if parts else {}
    for other in (part.data.attrs for part in parts[1:]):
        differing = [name for name in first.keys() | other.keys() if first.get(name) != other.get(name)]
        if differing:
            name = min(differing)
            raise InputError(
                f"shards differ in {name}: {first.get(name)} and {other.get(name)}; "
                "use workers of one kind, or one shard"
            )
    if not parts or sum(part.data.sizes["prompt"] for part in parts) != first["n_prompts"]:
        raise InputError("a shard is missing: all workers must see the folder of results")
    joined = Profile.concat(parts, "prompt").data.variables
    # In the order of one that was never cut.
    order = parts[0].data
    data = xr.Dataset(
        {name: joined[name] for name in order.data_vars}, {name: joined[name] for name in order.coords}
    )
    data.attrs = {name: value for name, value in first.items() if name != "n_prompts"}
    return Profile(data)
