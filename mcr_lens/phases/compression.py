"""How much of the other tokens' entropy the sink destroys, where, and for which lengths of prompt."""

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import entr, xlog1py

from mcr_lens.errors import InputError
from mcr_lens.phases.curves import ProfileLike, dataset_of, require_raw_estimator, sink_positions
from mcr_lens.thresholds import MIN_COMPRESSION, MIN_REST_ENTROPY

__all__ = [
    "MIN_COMPRESSION",
    "compression_span",
    "half_length",
    "mass_share",
    "outweighing_token",
    "outweighs_others",
    "reach",
    "sink_compression",
    "typical_compression",
]

# Of no more other tokens than these one may outweigh the rest by chance.
_FEW_OTHERS = 4
# Depths whose compression differs by less are as deep: the earliest stands for them.
_TIE = 0.02


def sink_compression(profile: ProfileLike) -> xr.DataArray:
    """The share of the other tokens' entropy that the sink destroys: kappa = 1 - H / H_rest, (prompt, depth).

    ``H`` is the matrix entropy of all tokens, ``H_rest`` that of all but the sink. For a sink orthogonal to
    the others kappa is ``w - h(w) / H_rest`` exactly, where ``w = c / (1 + c)`` is the sink's share of the
    squared mass and ``h`` the binary entropy: the spectrum is then that of the others times ``1 - w``, and
    ``w``. Of a set S of sinks orthogonal to the others, with the entropy ``H_S`` of their own, it is that of
    the others times ``1 - w`` and theirs times ``w``: ``H = h(w) + w H_S + (1 - w) H_rest``, and kappa is
    ``w - (h(w) + w H_S) / H_rest``. The measured entropies are used, never that formula.

    So kappa is above 0 roughly where ``w > e exp(-H_rest)``, where the token outweighs e average directions
    of the others. It is at most 1 and has no lower bound: a second massive token among the others makes it
    negative. NaN where ``H_rest`` is below 0.05 nats.

    Raises:
        InputError: for a profile of another estimator than the raw one, of which kappa has no such meaning.
    """
    data = dataset_of(profile)
    require_raw_estimator(data)
    missing = [name for name in ("matrix_entropy", "entropy_without_sink") if name not in data]
    if missing:
        raise InputError(f"this profile has no {missing[0]}, which compression is measured by: profile anew")
    rest = data.entropy_without_sink
    kappa = 1 - data.matrix_entropy / rest.where(rest >= MIN_REST_ENTROPY)
    return kappa.rename("sink_compression")


def typical_compression(kappa: xr.DataArray) -> xr.DataArray:
    """Kappa clipped at -1, so that no single prompt decides a mean over prompts."""
    return kappa.clip(min=-1.0)


def mass_share(profile: ProfileLike) -> xr.DataArray:
    """The sinks' share of the squared mass of all tokens, w = c / (1 + c), (prompt, depth)."""
    ratio = _mass_ratio(dataset_of(profile))
    return (1 / (1 + 1 / ratio)).rename("mass_share")


def half_length(profile: ProfileLike) -> xr.DataArray:
    """The number of tokens at which the sink still holds half of the squared mass, (prompt, depth).

    ``|S| + rho`` with ``rho = (T - |S|) M / R``, the mass of the |S| sinks over the mean mass of another
    token. It drifts little with the length of the prompt, where kappa and the mass share must fall. 0
    without a sink.
    """
    data = dataset_of(profile)
    n_sinks = _n_sinks(data)
    return (n_sinks + (data.n_tokens - n_sinks) * _mass_ratio(data)).rename("half_length")


def _mass_ratio(data: xr.Dataset) -> xr.DataArray:
    """Squared mass of the sinks over that of the others; earlier files have one sink."""
    return data.sink_mass_ratio if "sink_mass_ratio" in data else data.norm_mass_ratio


def _n_sinks(data: xr.Dataset) -> xr.DataArray:
    return (sink_positions(data) >= 0).sum("rank")


def reach(profile: ProfileLike) -> xr.DataArray:
    """The longest prompt that the sink would compress (kappa of 0.1), in tokens, (prompt, depth).

    The largest T with ``w(T) - h(w(T)) / (Hn_rest ln min(T - |S|, d_model)) >= 0.1`` and
    ``w(T) = rho / (rho + T - |S|)``; ``Hn_rest`` is the others' normalized entropy, |S| the number of
    sinks. It takes the sinks to be orthogonal to the others: where the alignment is large it is too short. 0
    where no T qualifies, infinite where every T does; NaN where ``H_rest`` is not known, and in files that do
    not say ``d_model``.
    """
    data = dataset_of(profile)
    n_sinks = _n_sinks(data)
    rho = half_length(profile) - n_sinks
    more = n_sinks.broadcast_like(rho).transpose(*rho.dims).values - 1
    values = xr.full_like(rho, np.nan)
    if (width := data.attrs.get("d_model")) is not None:
        rest = data.normalized_entropy_without_sink.transpose(*rho.dims).values
        longest = _reach(rho.values, np.where(rest > 0, rest, np.nan), int(width))
        values.values = np.where(longest > 0, longest + more, longest)
    return values.rename("reach")


def _reach(
    rho: Float[np.ndarray, "*n"], rest: Float[np.ndarray, "*n"], width: int
) -> Float[np.ndarray, "*n"]:
    """See ``reach``: the number of other tokens, and one sink."""
    # Beyond width + 1 tokens the entropy's scale is fixed: there a smallest share is enough, found by
    # halving.
    low, high = np.zeros_like(rho), np.ones_like(rho)
    for _ in range(60):
        middle = (low + high) / 2
        enough = _compresses(middle, rest * np.log(width))
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    with np.errstate(invalid="ignore"):
        longest = np.where(np.isinf(rho), np.inf, np.floor(rho / high - rho + 1))
    tokens = np.arange(3, width + 2)
    scale = np.log(tokens - 1)
    for place in zip(*np.nonzero(longest <= width + 1), strict=True):
        enough = _compresses(rho[place] / (rho[place] + tokens - 1), rest[place] * scale)
        longest[place] = tokens[enough][-1] if enough.any() else 0
    return np.where(np.isnan(rho + rest), np.nan, longest)


def _compresses(share: Float[np.ndarray, "*n"] | float, scale: Float[np.ndarray, "*n"] | float) -> np.ndarray:
    """Whether a sink of this share of the mass destroys enough of an entropy of ``scale`` nats."""
    binary_entropy = entr(share) - xlog1py(1 - np.asarray(share), -np.asarray(share))
    return share - binary_entropy / scale >= MIN_COMPRESSION


def outweighs_others(profile: ProfileLike) -> xr.DataArray | None:
    """Whether the sink's row outweighs the strongest direction of all others, c > p_1(rest), (prompt, depth).

    A criterion without parameters; NaN where kappa is, as of a prompt with a single other token. ``None`` for
    a profile without ``anisotropy_without_sink``.
    """
    data = dataset_of(profile)
    if "anisotropy_without_sink" not in data:
        return None
    ratio, strongest = _mass_ratio(data), data.anisotropy_without_sink
    known = ratio.notnull() & strongest.notnull()
    if "entropy_without_sink" in data:
        known &= data.entropy_without_sink >= MIN_REST_ENTROPY
    return (ratio > strongest).where(known)


def outweighing_token(profile: ProfileLike) -> int | None:
    """The position of another token that holds more than half of the others' mass, in most prompts.

    Then leaving out the sink alone says nothing of the rest. ``None`` where there is none, or where a profile
    does not say (``largest_rest_share``). Prompts with fewer than four other tokens are not asked: one of so
    few may hold half of the mass by chance.
    """
    data = dataset_of(profile)
    if "largest_rest_share" not in data:
        return None
    data = data.isel(prompt=(data.n_tokens > _FEW_OTHERS).values)
    heavy = (data.largest_rest_share > 0.5).values
    if not len(heavy) or heavy.mean(0).max() <= 0.5:
        return None
    positions = data.largest_rest_position.values[:, heavy.mean(0).argmax()]
    values, counts = np.unique(positions[positions >= 0], return_counts=True)
    return int(values[counts.argmax()])


def compression_span(
    kappa: Float[np.ndarray, "*curve depth"],
    low: Float[np.ndarray, "*curve depth"] | None = None,
    min_compression: float = MIN_COMPRESSION,
) -> tuple[Float[np.ndarray, "*curve"], Float[np.ndarray, "*curve"], np.ndarray]:
    """First and last depth of the compression phase, and every depth that is compressed as much.

    A depth is compressed where kappa is at least ``min_compression`` and half of its largest value, and its
    lower end ``low`` (if there is one) above 0. The phase is the run of such depths around the largest value,
    the earliest of those within 0.02 of it. NaN where there is none.
    """
    allowed = np.isfinite(kappa) & (kappa >= min_compression)
    if low is not None:
        allowed &= low > 0
    known = np.where(allowed, kappa, -np.inf)
    largest = known.max(-1, keepdims=True)
    compressed = allowed & (kappa >= largest / 2)
    deepest = (known >= largest - _TIE).argmax(-1)[..., None]
    depth = np.arange(kappa.shape[-1])
    first = np.where(~compressed & (depth < deepest), depth, -1).max(-1) + 1.0
    last = np.where(~compressed & (depth > deepest), depth, len(depth)).min(-1) - 1.0
    exists = compressed.any(-1)
    return np.where(exists, first, np.nan), np.where(exists, last, np.nan), compressed
