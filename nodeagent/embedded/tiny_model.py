"""The generated model of the embedded engine: a real GGUF file of half a megabyte, whose words are noise.

It lets a fresh machine, and the tests, run a real llama.cpp without a download. The shape is llama's own
(2 layers, width 64, 4 heads, 2 KV heads, an SPM vocabulary of 3 control tokens, 256 byte tokens and some words); the
weights are random from a fixed seed and made with exact arithmetic, so the file is the same everywhere, byte for byte.

Two liberties make it pleasant to use. The first channel of every embedding is one constant, and the output rows of
whole words are positive there, those of control and byte tokens negative: the model says words, never stray bytes,
and never ends by itself, so that `max_tokens: 8` yields exactly eight tokens. Everything else is noise.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import tempfile
from array import array
from pathlib import Path
from typing import Final

from nodeagent.embedded import gguf

ALIAS: Final = "geniehive-tiny"
"""The name under which the embedded engine announces the generated model."""

FILE_NAME: Final = "geniehive-tiny-v1.gguf"
"""Carries the version of the recipe: a changed recipe gets a new name and a new digest."""

SHA256: Final = "3b8d4458e21ba5438d5352663c0ca91324991873a3dfefca07ae0363c0dbc407"
"""Of the whole file; a cached file that differs (cut off, altered) is written anew."""

CONTEXT_TRAIN: Final = 4096
"""Tokens of context that the model claims to be trained for; a request can use no more."""

WIDTH: Final = 64
LAYERS: Final = 2
HEADS: Final = 4
KV_HEADS: Final = 2
FEED_FORWARD: Final = 128
SEED: Final = 20_251_101

_CONSTANT_CHANNEL: Final = 4.0
_WORD_PULL: Final = 2.0
_WORD_SPREAD: Final = 0.3
_OTHERS_PULL: Final = -8.0
_ROOT_OF_THREE: Final = 1.7320508
"""A uniform value in [-1, 1) times this has a standard deviation of one."""

# Nothing stands where an answer begins: llama.cpp reads that text into a grammar (JSON schemas, tools), and this
# vocabulary spells it in bytes with a leading space, which no grammar expects.
_CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] + ': ' + (message['content'] or '') + '\\n' }}"
    "{% endfor %}"
)

_WORDS: Final = tuple(
    """\
a about above across after again air all almost along also always amber an and another answer any apple are around as
ask at autumn away back ball bank be bear because bed before begin behind bell below best better between big bird blue
boat body book both bread bridge bright bring brother build but by call came candle car care carry castle cat chair
change child city clear climb close cloud coat cold come copper could country cross dance dark day deep desk did door
down dream drink drive dry each early earth east eat edge egg eight end enough even evening every eye face fall family
far farm father feather few field fill find fire first fish five floor flower fly follow food foot for forest form
forty found four free fresh friend from full game garden gave gentle get girl give glass go gold good grass gray great
green ground grow had hair half hand harbor hard has hat have he head hear heart heavy help her here high hill him his
hold home honey horse hot hour house how hundred ice idea if in into iron is island it its jump just keep key kind
king kitchen knew lake lamp land large last late laugh lead leaf learn leave left less letter life light like line
lion listen little long look lost love low made make man many map marble may me meadow mean milk mind
""".split()  # noqa: SIM905 (a list would be 240 lines)
)


def ensure_tiny_model(cache_dir: Path) -> Path:
    """Return the path of the generated model in `cache_dir`, writing it first if it is missing or damaged.

    Safe to call from several processes at once: the file appears whole, by one rename. Takes about 0.1 s when it
    must write. Raises OSError when it cannot.
    """
    path = cache_dir / FILE_NAME
    if is_intact(path):
        return path
    cache_dir.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cache_dir, prefix=FILE_NAME, suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write_tiny_model(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def is_intact(path: Path) -> bool:
    """Say whether `path` holds the generated model, whole and unaltered."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    except OSError:
        return False


def write_tiny_model(path: Path) -> None:
    """Write the model to `path`, overwriting what is there."""
    gguf.write(path, _metadata(), _tensors())


def _metadata() -> dict[str, gguf.Value]:
    """The keys that llama.cpp's `llama` architecture and its SPM tokenizer ask for."""
    tokens = _vocabulary()
    return {
        "general.architecture": "llama",
        "general.name": "GenieHive tiny (random words)",
        "general.description": "Random weights to try GenieHive without a download; its words are noise.",
        "general.license": "apache-2.0",
        "general.file_type": 0,  # all float32
        "llama.context_length": CONTEXT_TRAIN,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [text for text, _ in tokens],
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [kind for _, kind in tokens],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.chat_template": _CHAT_TEMPLATE,
    }


def _vocabulary() -> list[tuple[str, int]]:
    """Each token's text and kind: three control tokens, every byte, words with SPM's leading space."""
    normal, unknown, control, octet = 1, 2, 3, 6
    first = [("<unk>", unknown), ("<s>", control), ("</s>", control)]
    octets = [(f"<0x{value:02X}>", octet) for value in range(256)]
    return first + octets + [(f"\u2581{word}", normal) for word in _WORDS]


def _tensors() -> list[gguf.Tensor]:
    """All weights, under llama.cpp's names, in a fixed order (each draws from the same dice)."""
    dice = random.Random(SEED)
    size = len(_vocabulary())
    embedding = _noise(dice, "token_embd.weight", size, WIDTH, 1.0)
    output = _noise(dice, "output.weight", size, WIDTH, _WORD_SPREAD)
    for row in range(size):
        embedding.values[row * WIDTH] = _CONSTANT_CHANNEL
        output.values[row * WIDTH] = _OTHERS_PULL if row < size - len(_WORDS) else _WORD_PULL
    blocks = [tensor for layer in range(LAYERS) for tensor in _layer(dice, layer)]
    return [embedding, output, _ones("output_norm.weight"), *blocks]


def _layer(dice: random.Random, index: int) -> list[gguf.Tensor]:
    kv_width = WIDTH * KV_HEADS // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (kv_width, WIDTH),
        "attn_v": (kv_width, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (FEED_FORWARD, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
        "ffn_down": (WIDTH, FEED_FORWARD),
    }
    weights = [_noise(dice, f"blk.{index}.{name}.weight", *shape, 0.1) for name, shape in shapes.items()]
    return [*weights, _ones(f"blk.{index}.attn_norm.weight"), _ones(f"blk.{index}.ffn_norm.weight")]


def _noise(dice: random.Random, name: str, rows: int, columns: int, spread: float) -> gguf.Tensor:
    """A tensor of uniform noise with standard deviation `spread`.

    From integers by plain multiplication: no logarithm or square root whose last bit differs between machines.
    """
    count = rows * columns
    drawn = struct.unpack(f"<{count}H", dice.getrandbits(16 * count).to_bytes(2 * count, "little"))
    scale = spread * _ROOT_OF_THREE / 32768
    values = array("f", [(number - 32768) * scale for number in drawn])
    return gguf.Tensor(name=name, rows=rows, columns=columns, values=values)


def _ones(name: str) -> gguf.Tensor:
    return gguf.Tensor(name=name, rows=1, columns=WIDTH, values=array("f", [1.0] * WIDTH))
