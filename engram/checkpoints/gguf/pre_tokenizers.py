r"""Rules by which byte-level tokenizers cut a text before they merge, by their names in GGUF.

A name stands for regular expressions that llama.cpp has in its source; here they are those of the
models' own tokenizer.json, which cut alike. Those of Qwen compose a text (NFC) first, and memories
were trained with them; llama.cpp, to our knowledge, composes no text for such a tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_SHORT_FORMS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(numbers: str, marks: str = "") -> str:
    """Words with what stands before them, numbers, and other runs: Llama 3's rule and its kin."""
    letters = rf"[\p{{L}}{marks}]+" if marks else r"\p{L}+"
    others = rf" ?[^\s\p{{L}}{marks}\p{{N}}]+[\r\n]*"
    return rf"{_SHORT_FORMS}|[^\r\n\p{{L}}\p{{N}}]?{letters}|{numbers}|{others}|{_BLANKS}"


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut texts.

    Attributes:
        splits: Regular expressions, one after the other; matches become pieces of their own.
        composes: Texts are normalised by NFC first.
        takes_whole: A piece that is a token is not merged from smaller ones.
    """

    splits: tuple[str, ...]
    composes: bool = False
    takes_whole: bool = False


_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2 = PreTokenizer((_GPT2_WORDS,))
_DIGITS = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_LLAMA3 = PreTokenizer((_words(r"\p{N}{1,3}"),), takes_whole=True)
_QWEN2 = PreTokenizer((_words(r"\p{N}"),), composes=True)
_QWEN35 = PreTokenizer((_words(r"\p{N}", marks=r"\p{M}"),), composes=True)
_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = PreTokenizer(
    (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        rf"{_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}",
    )
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = PreTokenizer(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT_FORMS}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT_FORMS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}",
    )
)

# Files of DeepSeek-V4 say joyai-llm: its vocabulary is cut as that of V3 is.
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "deepseek-v3": _DEEPSEEK3,
        "joyai-llm": _DEEPSEEK3,
        "hunyuan-dense": _DEEPSEEK3,
        "qwen35": _QWEN35,
        "qwen2": _QWEN2,
        "deepseek-r1-qwen": _QWEN2,
        "llama-bpe": _LLAMA3,
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        "gpt-2": _GPT2,
        "smollm": _DIGITS,
        "starcoder": _DIGITS,
        "gpt-4o": _GPT4O,
    }
)
