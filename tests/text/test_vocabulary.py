from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import embedded_vocabulary
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from duplexdata.errors import TokenizerError
from duplexdata.layouts.tokens import ASSISTANT_GLM, audio_token
from duplexdata.text.vocabulary import Vocabulary, make_tokenizer

STATE_NAMES = ("[SILENCE]", "[ASSISTANT]", "[PAD]", "[EPAD]", "<1>", "<2>", "<eos>")
TEXT = st.text(max_size=60) | st.text(st.sampled_from("héllo wörld 你好吗，。🙂\n 'tis"), max_size=60)


def ids_of(vocabulary: Vocabulary) -> list[int]:
    s, d = vocabulary.state, vocabulary.duo
    return [s.silence, s.assistant, s.pad, s.epad, d.query, d.non_query, d.eos]


def small(folder: Path, extra: list[str]) -> str:
    """Another tokenizer, with some tokens of its own behind its text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["a text that tells of very little", "and another one"], trainer)
    tokenizer.add_special_tokens(extra)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return str(folder)


@given(st.lists(TEXT, max_size=4))
@settings(max_examples=60)
def test_any_text_comes_back_from_its_tokens(texts: list[str]) -> None:
    vocabulary = embedded_vocabulary()
    for text, found in zip(texts, vocabulary.encode(texts), strict=True):
        assert vocabulary.decode(found.ids.tolist()) == text


@given(TEXT)
@settings(max_examples=60)
def test_starts_are_where_tokens_begin(text: str) -> None:
    (found,) = embedded_vocabulary().encode([text])
    starts = found.starts.tolist()
    assert len(starts) == len(found.ids)
    assert starts == sorted(starts)
    assert all(0 <= a < len(text) for a in starts)
    if text:
        assert starts[0] == 0


@given(TEXT, TEXT)
@settings(max_examples=40)
def test_a_text_is_encoded_the_same_in_any_company(a: str, b: str) -> None:
    vocabulary = embedded_vocabulary()
    alone = vocabulary.encode([a])[0].ids.tolist()
    assert [x.ids.tolist() for x in vocabulary.encode([b, a, a])][1:] == [alone, alone]


def test_text_state_and_speech_tokens_are_apart_and_speech_is_in_a_row() -> None:
    vocabulary = embedded_vocabulary()
    state = ids_of(vocabulary)
    speech = range(vocabulary.state.speech_offset, vocabulary.state.speech_offset + 64)
    assert len(set(state)) == 7
    assert not set(state) & set(speech)
    assert [vocabulary.decode([i]) for i in state] == list(STATE_NAMES)
    assert [vocabulary.decode([i]) for i in speech] == [audio_token(n) for n in range(64)]
    assert len(vocabulary) == max(speech) + 1
    assert vocabulary.codebook_size == 64


@pytest.mark.parametrize("name", [*STATE_NAMES, "<|audio_3|>"])
def test_a_text_that_names_a_token_is_still_text(name: str) -> None:
    vocabulary = embedded_vocabulary()
    (found,) = vocabulary.encode([f"say {name} please"])
    assert max(found.ids) < min([*ids_of(vocabulary), vocabulary.state.speech_offset])


def test_facts_name_the_ids() -> None:
    vocabulary = embedded_vocabulary()
    facts = vocabulary.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["codebook_size"] == 64
    assert facts["speech_offset"] == vocabulary.state.speech_offset
    assert facts["vocabulary_size"] == len(vocabulary)
    named = facts["state_tokens"]
    assert isinstance(named, dict)
    assert list(named.values()) == ids_of(vocabulary)


def test_the_folder_is_what_auto_tokenizer_reads_with_the_same_ids(tmp_path: Path) -> None:
    make_tokenizer("embedded", 64, tmp_path / "tokenizer")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), Vocabulary.read(tmp_path / "tokenizer")
    assert len(theirs) == len(ours)
    assert theirs.convert_tokens_to_ids(list(STATE_NAMES)) == ids_of(ours)
    text = "How do I bake a loaf? 你好！"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode([text])[0].ids.tolist()
    assert theirs.decode(ours.encode([text])[0].ids.tolist()) == text


def test_the_folder_has_the_same_bytes_each_time_and_names_no_path(tmp_path: Path) -> None:
    source = small(tmp_path / "source", [])
    for folder in ("a", "b"):
        make_tokenizer(source, 16, tmp_path / folder)
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert not any(str(tmp_path).encode() in content for content in files.values())
    make_tokenizer(str(tmp_path / "a"), 16, tmp_path / "c")
    assert Vocabulary.read(tmp_path / "c").facts() == Vocabulary.read(tmp_path / "a").facts()


def test_any_fast_tokenizer_is_extended_by_what_it_lacks(tmp_path: Path) -> None:
    make_tokenizer(small(tmp_path / "source", ["[PAD]"]), 16, tmp_path / "out")
    found = Vocabulary.read(tmp_path / "out")
    assert len(set(ids_of(found))) == 7
    assert found.decode([found.state.pad]) == "[PAD]"
    assert found.decode([found.state.speech_offset + 15]) == audio_token(15)
    (text,) = found.encode(["a little text"])
    assert found.decode(text.ids.tolist()) == "a little text"


def test_a_tokenizer_with_glms_tokens_keeps_them(tmp_path: Path) -> None:
    own = [ASSISTANT_GLM, *(audio_token(i) for i in range(20))]
    source = small(tmp_path / "source", own)
    before = Tokenizer.from_file(str(tmp_path / "source" / "tokenizer.json"))
    make_tokenizer(source, 16, tmp_path / "out")
    found = Vocabulary.read(tmp_path / "out")
    assert found.state.assistant == before.token_to_id(ASSISTANT_GLM)
    assert found.state.speech_offset == before.token_to_id(audio_token(0))
    assert len(found) == before.get_vocab_size() + 6


def test_speech_tokens_that_are_too_few_or_not_in_a_row_are_an_error(tmp_path: Path) -> None:
    few = small(tmp_path / "few", [audio_token(i) for i in range(4)])
    with pytest.raises(TokenizerError, match="4 speech tokens"):
        make_tokenizer(few, 16, tmp_path / "out")
    torn = small(tmp_path / "torn", [audio_token(0), "[other]", audio_token(1)])
    with pytest.raises(TokenizerError, match="contiguous"):
        make_tokenizer(torn, 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_tokenizer_of_ours_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="nowhere"):
        Vocabulary.read(tmp_path / "nowhere")
    small(tmp_path / "source", [])
    with pytest.raises(TokenizerError, match="lacks"):
        Vocabulary.read(tmp_path / "source")
    with pytest.raises(TokenizerError, match="no tokenizer can be loaded"):
        make_tokenizer(str(tmp_path / "nowhere"), 16, tmp_path / "out")
