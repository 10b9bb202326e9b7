"""Llamba language models: load, generate, chat, embed, quantize.

>>> from mlx_llamba import Llamba
>>> with Llamba() as model:                       # the built-in model
...     for piece in model.stream("Once upon a time", max_tokens=20, seed=1):
...         print(piece, end="")

A model can be used from any number of threads: what they ask for is computed together, and Python's lock
is released meanwhile. Errors are subclasses of LlambaError.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING, AsyncIterator, Callable, Iterable, Iterator, Optional, Tuple, Union

from . import mlx_llamba_native as _native
from .mlx_llamba_native import (
    End,
    GenerationOptions,
    LlambaError,
    LoadOptions,
    Message,
    Quantized,
    QuantizeOptions,
    Reply,
)

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class Options(TypedDict, total=False):
        """Options for continuing a text; see GenerationOptions."""

        max_tokens: Optional[int]
        temperature: Optional[float]
        top_k: Optional[int]
        top_p: Optional[float]
        min_p: Optional[float]
        repetition_penalty: Optional[float]
        seed: Optional[int]
        stop: list[str]


__all__ = [
    "Chat",
    "End",
    "GenerationOptions",
    "Llamba",
    "LlambaError",
    "LoadOptions",
    "Message",
    "QuantizeOptions",
    "Quantized",
    "Reply",
    "TokenStream",
    "quantize",
]

Path = Union[str, "os.PathLike[str]"]

_open: weakref.WeakSet[Llamba] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A process must not end while a model computes.
    for model in list(_open):
        model.close()


class TokenStream(Iterator[str]):
    """A text that is being generated: an iterator of its pieces. Leaving it ends the generation."""

    def __init__(self, native: _native.TokenStream) -> None:
        self._native = native
        self._text: list[str] = []
        self._tokens: list[int] = []

    def __next__(self) -> str:
        while (piece := self._native.wait_next()) is not None:
            if text := self._note(piece):
                return text
        raise StopIteration

    async def __aiter__(self) -> AsyncIterator[str]:
        while (piece := await self._native.next()) is not None:
            if text := self._note(piece):
                yield text

    def _note(self, piece: _native.Piece) -> str:
        if piece.token is not None:
            self._tokens.append(piece.token)
        self._text.append(piece.text)
        return piece.text

    def cancel(self) -> None:
        """Ends the text after the next token, from any thread."""
        self._native.cancel()

    def finish(self) -> Reply:
        """Waits for the end, and returns the whole text."""
        for _ in self:
            pass
        end = self._native.end()
        assert end is not None
        return Reply(text="".join(self._text), tokens=self._tokens, end=end)


class Chat:
    """A conversation. The model reads each of its messages once."""

    def __init__(self, native: _native.Chat) -> None:
        self._native = native

    def send(self, text: str, **options: Unpack[Options]) -> TokenStream:
        """Sends a message of the user and returns the reply."""
        return TokenStream(self._native.send(text, GenerationOptions(**options)))

    @property
    def messages(self) -> list[Message]:
        """All messages."""
        return self._native.messages()

    def fork(self) -> Chat:
        """Copies the conversation: both go on from here, independently. Nothing is read again."""
        return Chat(self._native.fork())

    def undo(self) -> None:
        """Removes the last message of the user and all that follows it."""
        self._native.undo()

    def save(self, path: Path) -> None:
        """Saves the conversation with the model's state, for Llamba.load_chat."""
        self._native.save(os.fspath(path))


class Llamba:
    """A model: a directory, a .safetensors file, a hub repository, or (None) the built-in one."""

    def __init__(
        self,
        model: Path | None = None,
        *,
        tokenizer: Path | None = None,
        offline: bool = False,
        rows: int | None = None,
    ) -> None:
        name = None if model is None else os.fspath(model)
        other = None if tokenizer is None else os.fspath(tokenizer)
        self._native = _native.Llamba(name, LoadOptions(tokenizer=other, offline=offline, rows=rows))
        _open.add(self)

    def generate(self, prompt: str, **options: Unpack[Options]) -> Reply:
        """Continues a text to its end."""
        return self.stream(prompt, **options).finish()

    def stream(self, prompt: str, **options: Unpack[Options]) -> TokenStream:
        """Continues a text, piece by piece."""
        return TokenStream(self._native.stream(prompt, GenerationOptions(**options)))

    def answer(
        self, messages: Iterable[Message | Tuple[str, str]], **options: Unpack[Options]
    ) -> TokenStream:
        """Writes the next message of a conversation that the caller keeps."""
        said = [m if isinstance(m, Message) else Message(role=m[0], content=m[1]) for m in messages]
        return TokenStream(self._native.answer(said, GenerationOptions(**options)))

    def chat(self, system: str | None = None) -> Chat:
        """Begins a conversation that reads each message once."""
        return Chat(self._native.chat(system))

    def load_chat(self, path: Path) -> Chat:
        """Continues a conversation that Chat.save or `mlx-llamba chat --session` saved."""
        return Chat(self._native.load_chat(os.fspath(path)))

    def embed(self, text: str) -> list[float]:
        """The vector of a text, of length 1: texts of like meaning have like vectors."""
        return self._native.embed(text)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return self._native.encode(text)

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens."""
        return self._native.decode(tokens)

    def close(self) -> None:
        """Ends all generations and unloads the model."""
        self._native.close()

    def __enter__(self) -> Llamba:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Progress(_native.QuantizeProgress):
    def __init__(self, call: Callable[[int, int], Optional[bool]]) -> None:
        self._call = call

    def advance(self, done: int, total: int) -> bool:
        return self._call(done, total) is not False


def quantize(
    model: Path | None,
    output: Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    requantize: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], Optional[bool]] | None = None,
) -> Quantized:
    """Quantizes a checkpoint into a new directory. `progress(done, total)` may return False to stop."""
    options = QuantizeOptions(
        bits=bits, group_size=group_size, requantize=requantize, overwrite=overwrite
    )
    name = None if model is None else os.fspath(model)
    return _native.quantize(
        name, os.fspath(output), options, None if progress is None else _Progress(progress)
    )
