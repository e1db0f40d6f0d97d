"""The starter model's tokenizer: a byte-level BPE, small, in which every digit and every minus sign is a token.

Byte-level, so that any text encodes without loss. Merges may cross spaces: the fixed words around a problem become a
token or two, and prompts stay short. Numbers stay digit by digit, so that arithmetic has few symbols to learn.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

END = "<|end|>"
PAD = "<|pad|>"
_ALONE = Regex(r"\d|-(?=\d)")
"""Never merged: a digit, and the minus sign of a number (that of an operation stands before a space)."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Learn the merges from texts; the same texts give the same tokenizer.

    Args:
        vocab_size: all tokens: 2 special, 256 bytes, the rest merges.
        context: longest sequence of the model that it is for, in tokens.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_ALONE, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
