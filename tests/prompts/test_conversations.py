"""Conversations become prompts through the tokenizer's own chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mcr_lens as mcr

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant') %}"
    "{{ raise_exception('no role ' + message.role) }}{% endif %}"
    "{{ 'w7 ' if message.role == 'user' else ' w8 ' }}{{ message.content }}{% endfor %}"
)
MESSAGES = [[{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]] * 2
SHARE_GPT = [[{"from": "human", "value": "w1 w2"}, {"from": "gpt", "value": "w3"}]] * 2
# BOS, w7, w1, w2, w8, w3
TOKENS = (1, 10, 4, 5, 11, 6)


@pytest.fixture
def chatting(llama: Any) -> Iterator[Any]:
    before = llama.tokenizer.chat_template
    llama.tokenizer.chat_template = TEMPLATE
    yield llama
    llama.tokenizer.chat_template = before


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet", "hf:", "list"])
@pytest.mark.parametrize("conversations", [MESSAGES, SHARE_GPT])
def test_conversations_of_every_kind_of_source(
    kind: str, conversations: Any, chatting: Any, tmp_path: Path
) -> None:
    rows = [{"messages": each, "other": 1} for each in conversations]
    source: Any = tmp_path / f"p{kind}"
    if kind == ".parquet":
        pd.DataFrame(rows).to_parquet(source)
    elif kind == ".json":
        source.write_text(json.dumps(rows))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "p.jsonl").write_text(lines)
        source = {"hf:": f"hf:{tmp_path}", "list": conversations}.get(kind, source)
    prompts = mcr.load_prompts(source, chatting, field="messages", chat_template=True, n=2)
    # The BOS of the template is the one BOS.
    assert prompts.tokens == (TOKENS, TOKENS)
    assert prompts.bos == "prepended"
    record = prompts.attributes()["options"]["chat_template"]
    assert record["added"] == "<bos>w7 ... w8 ..."
    assert len(record["digest"]) == 16


def test_what_a_template_adds_is_what_transformers_adds(chatting: Any) -> None:
    theirs = chatting.tokenizer.apply_chat_template(MESSAGES[0], tokenize=True, return_dict=False)
    assert mcr.load_prompts(MESSAGES, chatting, chat_template=True).tokens[0] == tuple(theirs)


def test_conversations_that_cannot_be_used(chatting: Any, tmp_path: Path) -> None:
    def refused(messages: Any, *parts: str, **options: Any) -> None:
        path = tmp_path / "p.jsonl"
        path.write_text(json.dumps({"messages": messages}) + "\n")
        with pytest.raises(mcr.InputError) as raised:
            mcr.load_prompts(path, chatting, **{"chat_template": True, **options})
        for part in (*parts, "row 1"):
            assert part in str(raised.value)

    refused(MESSAGES[0], "conversation", "chat_template=True", chat_template=False)
    refused("w1 w2", "no conversation", "{role, content}")
    refused([], "no conversation")
    refused([{"role": "user"}], "no conversation")
    refused([{"role": "user", "content": None}], "no conversation")
    refused([{"role": "oracle", "content": "w1"}], "the chat template refuses it", "no role oracle")
    chatting.tokenizer.chat_template = None
    with pytest.raises(mcr.InputError, match=r"no chat template.*model\.tokenizer\.chat_template"):
        mcr.load_prompts(MESSAGES, chatting, chat_template=True)
