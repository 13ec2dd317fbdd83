"""Which positions act as sinks, layer by layer, read off a profile instead of assumed to be the first."""

from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.phases.curves import ProfileLike, dataset_of, sink_positions
from mcr_lens.thresholds import MIN_QUERIES, SINK_THRESHOLD

__all__ = ["even_sink_score", "locate_sink"]

_WHERE = ("position", "token")
_COLUMNS = ["layer", "sink", *_WHERE, "heads", "attention", "prompts", "judged"]
_NEEDED = ("top_column_position", "top_column_attention", "top_column_token", "learned_sink_mass")


def locate_sink(
    profile: ProfileLike,
    threshold: float = SINK_THRESHOLD,
    *,
    by: Literal["position", "token"] = "position",
    min_heads: float = 0.0,
    min_prompts: float = 0.5,
) -> pd.DataFrame:
    """The positions that act as sinks in each layer, secondary ones included, and the learned sink.

    A head has a sink at position k when its mean attention to k, over the queries after k that may see k, is
    at least the threshold (``metrics.later_attention``; at the sink position of the profile this is
    ``sink_attention``). Dividing by the queries that see a position, not by all, is fair to late ones; a
    token's attention to itself does not count, so that identity heads have no sinks. A position that fewer
    than 8 later queries may see is never named, since a head that looks at the token before would pass for
    one: the last 8 tokens of a prompt, and layers whose window is shorter than 9, have no sinks.

    A profile keeps the four positions that get the most attention of each prompt and layer, so a prompt can
    have at most four sinks a layer.

    Args:
        profile: of one model, measured by this version.
        threshold: mean attention from which on a head has a sink there.
        by: ``"position"``; or ``"token"`` for sinks that stand elsewhere in each prompt, such as the first
            full stop: then a prompt counts when any of its positions with that token is a sink.
        min_heads: a position is a sink in a prompt where more than this share of the heads have one there;
            with 0, one head is enough.
        min_prompts: least share of the prompts in which a position (or token) must be a sink.

    Returns:
        A row a layer and sink, those of most heads first; none where nothing acts as a sink. Columns:

        - ``layer``; ``sink``: ``"token"``, or ``"learned"`` for a logit in the softmax that is no token;
        - ``position``, ``token``: where it stands and the id of the token there; ``<NA>`` where that differs
          between the prompts, is not known, or the sink is learned;
        - ``heads``: share of the heads that have it; ``attention``: mean over all heads of the attention to
          it (of a learned sink, ``learned_sink_mass``); both are means over the prompts in which it is one;
        - ``prompts``: the share of them, among the ``judged``: the number of prompts that are long enough to
          tell, which go on for 8 tokens after that position (by token: have 9 tokens or more).

    Raises:
        InputError: for a profile without the attention to each position (saved by an earlier version, or of a
            model whose patterns cannot be read), of several models, or of prompts that are all too short; for
            thresholds outside 0..1.

    Example:
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(8), model)
        >>> found = mcr.phases.locate_sink(mcr.profile(model, prompts, progress=False), min_heads=0.5)
        >>> found[["layer", "position", "heads", "prompts"]].round(2)
           layer  position  heads  prompts
        0      4         0   0.75      1.0
        1      5         0   1.00      1.0
        2      7         0   1.00      1.0
    """
    if by not in ("position", "token"):
        raise InputError(f"by {by!r}: use 'position' or 'token'")
    for name, share in (("threshold", threshold), ("min_heads", min_heads), ("min_prompts", min_prompts)):
        if not 0.0 <= share <= 1.0:
            raise InputError(f"{name} {share}: use a share from 0 to 1")
    data = _checked(dataset_of(profile))
    # Which prompts can show a sink, (prompt, layer): long enough, finite there, and measured for it.
    judged = (data.n_tokens > MIN_QUERIES) & data.top_column_position.notnull().any("rank")
    judged &= data.learned_sink_mass.notnull().any("head")
    sinks = pd.concat([_of_tokens(data, threshold, by), _learned(data, judged, threshold)])
    rows = []
    for key, group in sinks.loc[sinks["heads"] > min_heads].groupby(["layer", "sink", by]):
        layer, sink, _ = key  # type: ignore[misc]  # a tuple, as long as the list
        able = judged.sel(layer=layer)
        if sink == "token" and by == "position":
            able = able & (data.n_tokens > int(group["position"].iloc[0]) + MIN_QUERIES)
        prompts = len(group) / float(able.sum())
        if prompts >= min_prompts:
            where = {"layer": layer, "sink": sink, **{name: _common(group[name]) for name in _WHERE}}
            means = {name: group[name].mean() for name in ("heads", "attention")}
            rows.append(where | means | {"prompts": prompts, "judged": int(able.sum())})
    rows.sort(key=lambda row: (row["layer"], -row["heads"], -row["attention"]))
    return pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys((*_WHERE, "judged"), "Int64"))


def even_sink_score(profile: ProfileLike) -> xr.DataArray:
    """The sink score that a head would have by attending evenly, (prompt, layer).

    ``(1/T)`` times the sum, over the queries that may see the sink, of ``1 / (keys that the query may see)``;
    of several sinks the sum. For the first token and no window it is ``H_T / T`` with the harmonic number:
    above 0.3 for prompts of up to 9 tokens, where every idle head passes for a sink.

    Raises:
        InputError: for files of an earlier version and profiles of several models, which do not say which
            keys a query may see, unless the sink is the first token.
    """
    data = dataset_of(profile)
    if "visible_queries" not in data:
        raise InputError("this profile has no attention: profile a model whose patterns can be read")
    positions = sink_positions(data)
    # Where no token is massive the first one is watched.
    positions = positions.where((positions >= 0).any("rank") | (positions["rank"] > 0), 0)
    n_tokens = data.n_tokens
    if (windows := data.attrs.get("windows")) is not None and "model" not in data.dims:
        keys = [longest if window is None else window for window in windows for longest in [n_tokens.max()]]
        window = xr.DataArray(np.array(keys, dtype=int), {"layer": range(len(keys))}, ["layer"])
        window = window.sel(layer=data.layer)
    elif bool((positions == 0).all()) and positions.sizes["rank"] == 1:
        # The first token is seen by as many queries after it as a window has keys before the query.
        window = (data.visible_queries + 1).fillna(1).astype(int)
    else:
        raise InputError("this profile does not say which keys a query may see: profile each model anew")
    last = positions + window
    end = last.where(last < n_tokens, n_tokens)
    begin = positions.where(positions < end, end)
    total = _even_attention(end, window) - _even_attention(begin, window)
    score = total.where(positions >= 0, 0.0).sum("rank") / n_tokens
    return score.where(data.visible_queries.notnull()).rename("even_sink_score")


def _even_attention(end: xr.DataArray, window: xr.DataArray) -> xr.DataArray:
    """Sum over the queries ``q < end`` of ``1 / min(q + 1, window)``."""
    inverse = np.concatenate([[0.0], 1 / np.arange(1, max(int(end.max()), 1) + 1)])
    harmonic = xr.apply_ufunc(lambda n: inverse.cumsum()[n], np.minimum(end, window).clip(min=0))
    return harmonic + (end - window).clip(min=0) / window


def _checked(data: xr.Dataset) -> xr.Dataset:
    """The dataset of one model with what this needs, or an error."""
    if stacked := sorted({"model", "step", "arm"} & {str(dim) for dim in data.dims}):
        raise InputError(f"sinks are those of one profile: select one {stacked[0]} first")
    if missing := [name for name in _NEEDED if name not in data.variables]:
        reason = (data.attrs.get("failed_checks") or {}).get("pattern_rows")
        why = f"its attention could not be read ({reason})" if reason else "an earlier version saved it"
        raise InputError(f"this profile has no {missing[0]}: {why}; profile a model anew to locate sinks")
    if int(data.n_tokens.max()) <= MIN_QUERIES:
        raise InputError(
            f"the longest prompt has {int(data.n_tokens.max())} tokens; a sink is told by the {MIN_QUERIES} "
            f"queries after it: use prompts of {MIN_QUERIES + 1} tokens or more"
        )
    return data


def _of_tokens(data: xr.Dataset, threshold: float, by: str) -> pd.DataFrame:
    """A row a prompt, layer and named position; or token, whose strongest position then stands for it."""
    where = {"position": data.top_column_position, "token": data.top_column_token}
    rows = _rows(data.top_column_attention, threshold, **where)
    rows = rows.loc[rows[by] >= 0].sort_values("heads", ascending=False, kind="stable")
    return rows.drop_duplicates(["layer", "prompt", by]).assign(sink="token")


def _learned(data: xr.Dataset, judged: xr.DataArray, threshold: float) -> pd.DataFrame:
    """A row a prompt and layer: what the learned sink takes; 0 where the model has none."""
    rows = _rows(data.learned_sink_mass.where(judged), threshold)
    return rows.assign(sink="learned", position=-1, token=-1)


def _rows(attention: xr.DataArray, threshold: float, **where: xr.DataArray) -> pd.DataFrame:
    heads = (attention >= threshold).where(attention.notnull()).mean("head")
    table = xr.Dataset({**where, "heads": heads, "attention": attention.mean("head")})
    return table.to_dataframe().reset_index()


def _common(values: pd.Series) -> int | None:
    """The value that all have; ``None`` where they differ or it is not known."""
    first = int(values.iloc[0])
    return first if first >= 0 and bool(np.all(values == first)) else None
