"""What names give away, and that they give away nothing that they do not say."""

import pytest

from geniehive.resources import Operation
from nodeagent.engines.naming import (
    CHAT,
    SPEECH_TO_TEXT,
    family_of,
    operations_of,
    parameter_size_of,
    quantization_of,
    quantization_of_ftype,
)


@pytest.mark.parametrize(
    ("name", "family", "quantization"),
    [
        ("/models/Qwen3-8B-Q4_K_M.gguf", "qwen3", "Q4_K_M"),
        ("Qwen/Qwen3-8B", "qwen3", ""),
        ("qwen3.5-35b-a3b", "qwen3.5", ""),
        ("Meta-Llama-3.1-8B-Instruct-IQ2_XXS.gguf", "llama3.1", "IQ2_XXS"),
        ("meta-llama/Llama-8B", "llama", ""),
        ("gemma-3-12b-it-Q8_0-00001-of-00002.gguf", "gemma3", "Q8_0"),
        ("phi-4-mini-instruct-FP16", "phi4", "FP16"),
        ("Mistral-7B-Instruct-v0.3-AWQ", "mistral", "AWQ"),
        ("gpt-oss-20b-mxfp4", "gpt-oss", "MXFP4"),
        ("Systran/faster-whisper-small", "whisper", ""),
        ("some-private-model", "", ""),
    ],
)
def test_family_and_quantization_of_a_name(name, family, quantization):
    assert (family_of(name), quantization_of(name)) == (family, quantization)


@pytest.mark.parametrize(
    ("ftype", "short"),
    [("Q4_K - Medium", "Q4_K_M"), ("all F32", "F32"), ("Q8_0", "Q8_0"), ("IQ2_XXS - 2.0625 bpw", "IQ2_XXS"),
     ("(guessed) Q5_K - Small", "Q5_K_S"), ("unknown, may not work", ""), ("", "")],
)  # fmt: skip
def test_the_ftype_of_llama_cpp_in_short(ftype, short):
    assert quantization_of_ftype(ftype) == short


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("qwen3:8b", CHAT),
        ("nomic-embed-text", (Operation.EMBEDDINGS,)),
        ("BAAI/bge-m3", (Operation.EMBEDDINGS,)),
        ("bge-reranker-v2-m3", (Operation.RERANK,)),
        ("whisper-large-v3", SPEECH_TO_TEXT),
        ("kokoro-82m", (Operation.SPEECH,)),
        ("FLUX.1-schnell", (Operation.IMAGE,)),
    ],
)
def test_what_a_name_is_likely_made_for(name, operations):
    assert operations_of(name) == operations


def test_parameter_sizes():
    assert [parameter_size_of(count) for count in (8190735360, 494_000_000, 137920, 12, None)] == [
        "8.2B",
        "494M",
        "138K",
        "",
        "",
    ]
