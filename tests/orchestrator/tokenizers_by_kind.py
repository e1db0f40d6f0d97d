"""Small tokenizers of the kinds that language models have, made on the spot."""

from collections.abc import Callable, Mapping

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "naïve café, 5 € und 日本語",
    "the first step is wrong \U0001f469\u200d\U0001f469\u200d\U0001f467 but 🎉🎉 the rest holds",
    "x² + y² = z²; ½·½ = ¼",
)
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_WORDS = ["▁", "▁the", "▁step", "s", "t", "e", "a", "é", "日", "▁日", "x", "²", "is", "▁▁", "1", "▁1"]


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=330, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer)


def llama() -> PreTrainedTokenizerFast:
    """Sentencepiece BPE with byte fallback, decoded as Llama 2 is."""
    vocabulary = {"<unk>": 0, "<end>": 1, **{byte: 2 + n for n, byte in enumerate(_BYTES)}}
    vocabulary |= {word: 258 + n for n, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return _wrapped(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """Sentencepiece unigram with byte fallback, decoded by metaspace."""
    pieces = [("<unk>", 0.0), ("<end>", 0.0), *[(byte, -9.0) for byte in _BYTES]]
    pieces += [(word, -float(n + 1)) for n, word in enumerate(_WORDS)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _wrapped(tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT has it: spaces between its tokens are nobody's."""
    tokenizer = Tokenizer(WordPiece({"<unk>": 0, "<end>": 1, "step": 2, "##s": 3}, unk_token="<unk>"))
    tokenizer.decoder = decoders.WordPiece()
    return _wrapped(tokenizer)


READABLE: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": byte_level,
    "llama": llama,
    "unigram": unigram,
}


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("｜作｜", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", clean_up_tokenization_spaces=False)
