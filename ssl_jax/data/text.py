"""Tokenization of captions: UTF-8 bytes, or the pieces of a byte-level BPE vocabulary."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.core.errors import UserError
from ssl_jax.data.draws import uniform

PADDING = 0
_CAPTION = 1 << 20  # key of these draws; crops have a view group in its place
_LEARN_FROM = 200_000  # captions; more do not improve a vocabulary
_BYTES = 256
MAX_PIECES = 10_000_000


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Tokenizer of text: 0 is padding, 1 to `pieces` are the pieces, followed by start and end.

    The end has the highest number, as in CLIP, which finds it by argmax.

    Attributes:
      pieces: number of different pieces.
      split: function from text to piece numbers, 0 to pieces - 1.
      json: content of the tokenizer file, "" for bytes.
    """

    pieces: int
    split: Callable[[str], ArrayLike]
    json: str = ""

    @property
    def start(self) -> int:
        return self.pieces + 1

    @property
    def end(self) -> int:
        return self.pieces + 2

    @property
    def vocabulary(self) -> int:
        """Number of token numbers."""
        return self.pieces + 3

    def tokens(self, text: str, length: int) -> np.ndarray:
        """Tokenize to (length,) int32: start, as many pieces as fit, end, padding."""
        pieces = np.asarray(self.split(text), np.int32)[: length - 2] + 1
        out = np.full(length, PADDING, np.int32)
        out[: len(pieces) + 2] = [self.start, *pieces, self.end]
        return out

    def caption_tokens(
        self,
        captions: Sequence[Sequence[str]],
        index: np.ndarray,
        length: int,
        seed: int,
        epoch: int,
    ) -> np.ndarray:
        """Tokenize one caption per example, drawn from (seed, epoch, index): (b, length) int32.

        An example without captions gets the empty one.
        """
        draws = uniform(seed, epoch, index, _CAPTION, shape=(1,))[:, 0]
        chosen = []
        for i, draw in zip(index, draws, strict=True):
            texts = captions[int(i)] or ("",)
            chosen.append(self.tokens(texts[int(draw * len(texts))], length))
        return np.stack(chosen)


def without_halves(text: str) -> str:
    """Replace lone halves of UTF-16 characters, which JSON allows and UTF-8 does not, by "?"."""
    return text.encode("utf-8", "replace").decode()


BYTES = Tokenizer(_BYTES, lambda text: np.frombuffer(text.encode("utf-8", "replace"), np.uint8))


def open_tokenizer(spec: str, captions: Sequence[Sequence[str]] | None = None) -> Tokenizer:
    """Open the tokenizer that `data.tokenizer` names.

    Args:
      spec: "" for bytes, which need no vocabulary and cover every text; "train:SIZE" for a
        vocabulary of at most SIZE pieces learned from `captions`; or the path of a tokenizer file
        of Hugging Face's `tokenizers` (a JSON file).
      captions: captions of the training data.

    Raises:
      UserError: no such file, an invalid file or SIZE, or no captions.
    """
    if not spec:
        return BYTES
    if not spec.startswith("train:"):
        try:
            text = Path(spec).read_text("utf-8")
        except (OSError, ValueError):  # ValueError: not a text, or not a file name
            raise UserError(
                f"data.tokenizer: no file {spec!r}; expected a tokenizer JSON file, or 'train:8192'"
            ) from None
        return from_json(text, spec)
    size = spec.removeprefix("train:")
    if not size.isdecimal() or int(size) < _BYTES:
        raise UserError(
            f"data.tokenizer: expected a size of at least {_BYTES}, 'train:8192', got {spec!r}"
        )
    if captions is None:
        raise UserError(f"data.tokenizer: {spec!r} needs captions, but the data have none")
    return from_json(learn(captions, int(size)), spec)


def from_json(text: str, where: str) -> Tokenizer:
    """Make a tokenizer from the text of its file, called `where` in messages.

    Raises:
      UserError: not a tokenizer file.
    """
    import tokenizers  # most runs have no text

    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except BaseException as e:  # a bare Exception, and not even that if Rust panics
        if isinstance(e, (KeyboardInterrupt, SystemExit)):
            raise
        raise UserError(f"{where}: not a tokenizer file ({' '.join(str(e).split())})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Some files number their pieces with gaps.
    pieces = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if not 0 < pieces <= MAX_PIECES:
        raise UserError(f"{where}: {pieces} pieces; expected 1 to {MAX_PIECES}")

    def split(caption: str) -> list[int]:
        try:
            return tokenizer.encode(without_halves(caption), add_special_tokens=False).ids
        except Exception as e:
            raise UserError(f"{where}: cannot split {caption[:80]!r} ({e})") from None

    return Tokenizer(pieces, split, text)


def learn(captions: Sequence[Sequence[str]], size: int) -> str:
    """Learn a byte-level BPE vocabulary (lower case, as CLIP's) from captions; return its tokenizer
    file.

    It has at most `size` pieces, including the 256 bytes, so that every text can be encoded. Uses
    at most 200,000 examples, spread evenly; the same captions give the same file.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    few = np.linspace(0, len(captions) - 1, min(len(captions), _LEARN_FROM)).astype(np.int64)
    texts = (without_halves(text) for i in few for text in captions[int(i)])
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()
