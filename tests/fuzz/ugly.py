"""Ugly contents for files of every format that is read: pieces of it, values of all kinds, damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[Any], Any]

# Pieces of the formats themselves reach further than random bytes do.
JSON = (
    '{"text": "w1 w2", "label": 1}|{"text"|[|]|{|}|"|,|:|null|NaN|-Infinity|1e999|"\\ud800"|-|\\|'
    "9999999999999999"
)
CELLS = 'text,label|text\tlabel|w1 w2,1|w1 w2\t1|"w1, w2",2|""|"|,|\t|#|1|nan'
TOML = (
    '[[models]]|[[prompts]]|[estimator]|source = "tiny"|source = "made-up"|revisions = ["step0"]|n = 4'
    '|seed = 1|arms = ["baseline"]|arms = [{intervention = "clamp_norm", layers = [1], dose = [0.5, 1]}]'
    '|name = "../x"'
    "|max_tokens = 0xffffffffffffffffffff|center = true|alpha = inf|dose = nan|sink_position = 1979-05-27"
    '|options = {a = {b = [1, "c"]}}|backend = "bridge"|[|]|{|}|=|"|\\u0000|#'
)
WIKITEXT = "= A =|= = B = =|=|text .| = A = |"
COMMON = ["\n", "\r\n", "\r", "\t", " ", "\ufeff", "\0", "\udcff", "é", "🙂", "\u2028"]


def encoded(text: str) -> bytes:
    """Lone surrogates become bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def content_of(joined: str) -> Any:
    """Files of pieces of a format, in lines or in disorder, and of random bytes."""
    known = st.sampled_from([*joined.split("|"), *COMMON])
    lines = st.lists(known, max_size=25).map("\n".join)
    mixed = st.lists(known | st.text(max_size=3), max_size=30).map("".join)
    return st.one_of(lines.map(encoded), mixed.map(encoded), st.binary(max_size=120))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def damaged(draw: Draw, content: bytes) -> bytes:
    """A real file with some bytes changed, cut short, or made longer; seldom the same."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 8))):
        place = draw(st.integers(0, len(content) - 1) | st.integers(0, min(200, len(content) - 1)))
        changed[place] = draw(st.integers(0, 255))
    end = draw(st.just(len(content)) | st.integers(0, len(content)))
    return bytes(changed[:end]) + draw(st.just(b"") | st.binary(max_size=20))


def table(first: str, *names: str) -> Any:
    """A table of a grid with values of all kinds under keys that there are."""
    keys = st.lists(st.sampled_from(names), unique=True, max_size=2)
    lines = keys.flatmap(lambda some: st.tuples(*(VALUES.map(f"{key} = {{}}".format) for key in some)))
    return lines.map(lambda rest: "\n".join([first, *rest, ""]))


VALUES = st.sampled_from(
    '1|4|0|-1|2.5|nan|1e999|0xffffffffffffffffffff|true|"x"|"../../x"|"step0"|"baseline"|""|"\\u0000"|[]|[1]'
    '|["a", "b"]|["step0", "../x"]|{}|{a = [1]}|1979-05-27|"bridge"|"auto"|"emergence"|"cpu"|["baseline"]'
    '|[{intervention = "clamp_norm", layers = [1], dose = [0.5, 1]}]'.split("|")
)
TABLES = st.tuples(
    table("", "arms", "sink_position"),
    table('[[models]]\nsource = "tiny"', "revisions", "name", "dtype", "batch_size", "options", "backend"),
    table('[[prompts]]\nsource = "made-up"', "n", "seed", "max_tokens", "name", "prepend_bos", "field"),
    table("[estimator]", "center", "unit_rows", "alpha"),
).map("".join)
