"""Writes a model that says nonsense in Chinese: random weights in a GGUF file, made in a second, the same for the same seed.

`python -m tests.peers.tiny_model tiny.gguf` makes one by hand. It is a Llama of two layers. Its tokens are the characters of
ASCII, every fifth of GB 2312's common ones and their marks; other characters are spelled in bytes. The first dimension of the
residual stream is the same for every token, and no layer writes to it: through it the output has a bias, by which bytes and
ASCII are never said and an answer ends after some dozens of tokens.

The format: "GGUF specification", version 3, in the documentation of ggml.
"""

from __future__ import annotations

import array
import math
import random
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

WIDTH = 64
HEADS = 4
LAYERS = 2
INNER = 128
CONTEXT = 131_072

END_LOGIT = 1.0
"""Of the token that ends an answer; those of Chinese characters are normally distributed around 0."""

CONSTANT = 8.0
"""What the first dimension of every token is; the others are normally distributed around 0."""

NORMAL, UNKNOWN, CONTROL, MARK, BYTE = 1, 2, 3, 4, 6
"""Kinds of tokens."""

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n<tools>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools><|im_end|>\n"
    "{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}{% if message.content %}{{ '\n' + message.content }}"
    "{% endif %}{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of ChatML, with tools as Hermes and Qwen write them."""

ALIGNMENT = 32


class Token(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    kind: int = NORMAL


class Tensor(NamedTuple):
    """Weights by name."""

    name: str
    shape: tuple[int, ...]
    """The innermost dimension first."""
    values: Sequence[float]


def vocabulary() -> list[Token]:
    """All tokens; the ids are their places."""
    common = bytes(byte for high in range(0xB0, 0xD7) for low in range(0xA1, 0xFF) for byte in (high, low))
    characters = "，。！？：；“”…—、《》" + common.decode("gb2312")[::5]
    return [
        Token("<unk>", UNKNOWN),
        Token("<s>", CONTROL),
        Token("</s>", CONTROL),
        Token("<|im_start|>", CONTROL),
        Token("<|im_end|>", CONTROL),
        Token("<tool_call>\n", MARK),  # in one piece: to call a tool takes one token
        Token("</tool_call>", MARK),
        *(Token(f"<0x{byte:02X}>", BYTE) for byte in range(256)),
        Token("▁"),  # a space
        *(Token(chr(code)) for code in range(0x21, 0x7F)),
        *(Token(character) for character in characters),
    ]


END, CALL, NEWLINE = 4, 5, 7 + 0x0A
"""The ids of the tokens that end an answer, that begin the call of a tool, and that break a line."""


def tensors(seed: int) -> list[Tensor]:
    """All weights."""
    chance = random.Random(seed)
    tokens = vocabulary()
    spread = 1 / math.sqrt(WIDTH)

    def noise(inner: int, outer: int, scale: float, silent: bool = False) -> list[float]:
        """A matrix of `outer` rows; a silent one writes nothing to the first dimension."""
        values = [chance.gauss(0, scale) for _ in range(inner * outer)]
        if silent:
            values[:inner] = [0.0] * inner
        return values

    embedding = noise(WIDTH, len(tokens), 1)
    embedding[::WIDTH] = [CONSTANT] * len(tokens)
    output = noise(WIDTH, len(tokens), spread)
    for i, token in enumerate(tokens):
        # After the last norm the first dimension is about 4, so these are a quarter of the logits.
        chinese = token.kind == NORMAL and not token.text.isascii()
        output[i * WIDTH] = 0.0 if chinese else -10.0
    newline = embedding[NEWLINE * WIDTH + 1 : (NEWLINE + 1) * WIDTH]  # the prompt's last token: no answer is empty
    output[END * WIDTH : (END + 1) * WIDTH] = [END_LOGIT / 4] + [-10 * value / WIDTH for value in newline]
    ones = [1.0] * WIDTH
    made = [
        Tensor("token_embd.weight", (WIDTH, len(tokens)), embedding),
        Tensor("output_norm.weight", (WIDTH,), ones),
        Tensor("output.weight", (WIDTH, len(tokens)), output),
    ]
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (WIDTH, INNER),
            "ffn_up": (WIDTH, INNER),
            "ffn_down": (INNER, WIDTH),
        }
        for name, (inner, outer) in shapes.items():
            silent = name in ("attn_output", "ffn_down")
            made.append(Tensor(f"blk.{layer}.{name}.weight", (inner, outer), noise(inner, outer, spread, silent)))
        made += [Tensor(f"blk.{layer}.{name}_norm.weight", (WIDTH,), ones) for name in ("attn", "ffn")]
    return made


class Facts:
    """The metadata of a GGUF file: keys with typed values."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[bytes] = []

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def _put(self, key: str, kind: int, value: bytes) -> None:
        self.count += 1
        self._parts.append(text(key) + struct.pack("<I", kind) + value)

    def number(self, key: str, value: int) -> None:
        """A uint32."""
        self._put(key, 4, struct.pack("<I", value))

    def real(self, key: str, value: float) -> None:
        """A float32."""
        self._put(key, 6, struct.pack("<f", value))

    def flag(self, key: str, value: bool) -> None:
        """A bool."""
        self._put(key, 7, struct.pack("<?", value))

    def words(self, key: str, value: str) -> None:
        """A string."""
        self._put(key, 8, text(value))

    def several(self, key: str, kind: int, values: Iterable[bytes]) -> None:
        """An array."""
        listed = list(values)
        self._put(key, 9, struct.pack("<IQ", kind, len(listed)) + b"".join(listed))


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def facts() -> Facts:
    """What the file says of itself."""
    tokens = vocabulary()
    made = Facts()
    made.words("general.architecture", "llama")
    made.words("general.name", "tiny")
    made.number("general.alignment", ALIGNMENT)
    made.number("llama.vocab_size", len(tokens))
    made.number("llama.context_length", CONTEXT)
    made.number("llama.embedding_length", WIDTH)
    made.number("llama.block_count", LAYERS)
    made.number("llama.feed_forward_length", INNER)
    made.number("llama.attention.head_count", HEADS)
    made.number("llama.attention.head_count_kv", HEADS)
    made.number("llama.rope.dimension_count", WIDTH // HEADS)
    made.real("llama.attention.layer_norm_rms_epsilon", 1e-5)
    made.words("tokenizer.ggml.model", "llama")
    made.several("tokenizer.ggml.tokens", 8, (text(token.text) for token in tokens))
    made.several("tokenizer.ggml.scores", 6, (struct.pack("<f", -float(i)) for i in range(len(tokens))))
    made.several("tokenizer.ggml.token_type", 5, (struct.pack("<i", token.kind) for token in tokens))
    made.number("tokenizer.ggml.unknown_token_id", 0)
    made.number("tokenizer.ggml.bos_token_id", 1)
    made.number("tokenizer.ggml.eos_token_id", END)
    made.flag("tokenizer.ggml.add_bos_token", True)
    made.flag("tokenizer.ggml.add_space_prefix", False)
    made.words("tokenizer.chat_template", TEMPLATE)
    return made


def write(path: Path, seed: int = 0) -> None:
    """Write the model."""
    described = facts()
    made = tensors(seed)
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(made), described.count), bytes(described)]
    body: list[bytes] = []
    offset = 0
    for tensor in made:
        head.append(text(tensor.name) + struct.pack("<I", len(tensor.shape)))
        head.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + struct.pack("<IQ", 0, offset))  # 0: float32
        data = padded(array.array("f", tensor.values).tobytes())
        body.append(data)
        offset += len(data)
    path.write_bytes(padded(b"".join(head)) + b"".join(body))


def padded(data: bytes) -> bytes:
    """Fill up to the alignment."""
    return data + bytes(-len(data) % ALIGNMENT)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
