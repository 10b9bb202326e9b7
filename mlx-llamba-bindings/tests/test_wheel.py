"""Tests of the Python wheel, run by scripts/wheel-check in a venv that has nothing else."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlx_llamba import Llamba, LlambaError, quantize

OPTIONS = {"max_tokens": 24, "temperature": 0.0, "repetition_penalty": 1.0}


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = Llamba()

    def test_a_stream_is_the_text_in_pieces(self):
        whole = self.model.generate("Once upon a time", **OPTIONS)
        stream = self.model.stream("Once upon a time", **OPTIONS)
        pieces = list(stream)
        self.assertGreater(len(pieces), 10)
        self.assertEqual("".join(pieces), whole.text)
        self.assertEqual(len(whole.tokens), 24)
        self.assertEqual(whole.end.reason, "length")
        self.assertEqual(self.model.decode(whole.tokens), whole.text)

        async def collect():
            return [piece async for piece in self.model.stream("Once upon a time", **OPTIONS)]

        self.assertEqual(asyncio.run(collect()), pieces)

    def test_options_reach_the_sampling(self):
        def text(**options):
            return self.model.generate("The sun", max_tokens=16, **options).text

        self.assertEqual(text(seed=3), text(seed=3))
        self.assertNotEqual(text(seed=3, temperature=1.5), text(seed=4, temperature=1.5))
        greedy = self.model.generate("Once upon a time", **OPTIONS).text
        word = greedy.split()[4]
        stopped = self.model.generate("Once upon a time", **OPTIONS, stop=[word])
        self.assertEqual(stopped.text, greedy[: greedy.index(word)])
        self.assertEqual(stopped.end.reason, "stop")

    def test_a_conversation_forks_undoes_and_comes_back_from_a_file(self):
        chat = self.model.chat()
        first = chat.send("Tell me about a red ball.", **OPTIONS).finish()
        fork = chat.fork()
        one = chat.send("And then?", **OPTIONS).finish()
        other = fork.send("And then?", **OPTIONS).finish()
        self.assertEqual(one.text, other.text)
        self.assertGreaterEqual(one.end.cached_tokens, first.end.prompt_tokens)
        chat.undo()
        self.assertEqual([m.role for m in chat.messages], ["user", "assistant"])
        self.assertEqual(len(fork.messages), 4)
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "ball.session"
            chat.save(path)
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            again = self.model.load_chat(path)
            self.assertEqual(again.messages, chat.messages)
            self.assertEqual(again.send("And then?", **OPTIONS).finish().text, one.text)
        messages = [("user", "Tell me about a red ball.")]
        self.assertEqual(self.model.answer(messages, **OPTIONS).finish().text, first.text)

    def test_threads_get_what_each_would_get_alone(self):
        prompts = ["Once upon a time", "The sun", "A boy named Tim", "One day"]
        alone = [self.model.generate(prompt, **OPTIONS).text for prompt in prompts]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda p: self.model.generate(p, **OPTIONS).text, prompts))
        self.assertEqual(together, alone)

    def test_other_threads_run_while_one_waits(self):
        stream = self.model.stream("Once upon a time", max_tokens=1 << 20, stop=[])
        count, waits = 0, threading.Thread(target=stream._native.finish)
        waits.start()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            count += 1
        running = waits.is_alive()
        stream.cancel()
        waits.join(20)
        self.assertFalse(waits.is_alive())
        # Without the lock's release, this thread would have had to wait for the whole text.
        self.assertGreater(count, 1000)
        if running:
            self.assertEqual(stream._native.end().reason, "cancelled")

    def test_errors_are_exceptions(self):
        with self.assertRaisesRegex(LlambaError.Load, "nowhere"):
            Llamba("./nowhere")
        with self.assertRaisesRegex(LlambaError.Argument, "temperature"):
            self.model.generate("The sun", temperature=-1.0)
        with self.assertRaises(LlambaError.Conversation):
            self.model.chat().undo()
        with self.assertRaisesRegex(LlambaError.File, "nowhere"):
            self.model.load_chat("nowhere/at.all")
        chat = self.model.chat()
        reply = chat.send("Hello!", max_tokens=1 << 20)
        with self.assertRaises(LlambaError.Busy):
            chat.fork()
        del reply  # which ends it
        closed = Llamba()
        closed.close()
        with self.assertRaises(LlambaError.Closed):
            closed.generate("The sun")

    def test_embeddings_have_length_one(self):
        ball, again = self.model.embed("A red ball."), self.model.embed("A red ball.")
        self.assertEqual(ball, again)
        self.assertAlmostEqual(sum(x * x for x in ball), 1.0, places=4)

    def test_a_quantized_model_runs(self):
        with tempfile.TemporaryDirectory() as place:
            output, seen = Path(place) / "two", []
            made = quantize(
                None, output, bits=8, requantize=True, progress=lambda done, total: seen.append(done)
            )
            self.assertGreater(made.bits_per_weight, 8)
            self.assertTrue(seen)
            with Llamba(output) as model:
                self.assertEqual(len(model.generate("The sun", **OPTIONS).tokens), 24)
            with self.assertRaises(LlambaError.File):
                quantize(None, output, bits=8, requantize=True)
            with self.assertRaises(LlambaError.Interrupted):
                quantize(
                    None, Path(place) / "three", requantize=True, progress=lambda done, total: False
                )
            self.assertEqual(os.listdir(place), ["two"])

    def test_a_program_may_end_in_the_middle_of_a_text(self):
        code = (
            "import mlx_llamba; m = mlx_llamba.Llamba(); s = m.stream('The sun', max_tokens=1 << 20);"
            "print(next(s), flush=True)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
        self.assertEqual((run.returncode, run.stderr), (0, b""))


if __name__ == "__main__":
    unittest.main()
