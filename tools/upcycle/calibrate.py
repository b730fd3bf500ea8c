"""Token windows to calibrate on and to evaluate on.

Calibration rows come from two places: original prose, dialogue, code and
instructions in text/calibration.txt, and answers that the dense model itself
writes to text/prompts.txt, which is what it will meet when it serves.
text/heldout.txt is only ever used to measure.

Documents are separated by a line "%%". One whose first line starts with "? "
is a chat turn: that line is the user's, the rest the assistant's.
"""
from pathlib import Path

import numpy as np

import dense
import progress

TEXT = Path(__file__).parent / "text"
WINDOW = 256                  # tokens that attend to each other
SAMPLED = (48, 160)           # sequences, length of each with its prompt
TEMPERATURE = 0.8


def render(document, tokenizer):
    """Token ids of one document as the model expects to see it."""
    if document.startswith("? "):
        question, answer = document[2:].split("\n", 1)
        return tokenizer.encode(tokenizer.chat(question) + answer.strip("\n") + "<|im_end|>\n")
    return tokenizer.encode("<|endoftext|>" + document.strip("\n"))


def windows(name, tokenizer):
    """The file's documents one after another, cut in windows: [n, WINDOW]."""
    ids = []
    for document in (TEXT / name).read_text(encoding="utf-8").split("\n%%\n"):
        ids += render(document, tokenizer)
    n = len(ids) // WINDOW
    return np.array(ids[:n * WINDOW]).reshape(n, WINDOW)


def sample(model, tokenizer, seed):
    """Answers of the dense model to the shipped prompts: ids [B, T]."""
    rng = np.random.default_rng(seed)
    batch, length = SAMPLED
    prompts = (TEXT / "prompts.txt").read_text(encoding="utf-8").splitlines()
    picked = rng.permutation(len(prompts))[:batch]
    starts = [tokenizer.encode(tokenizer.chat(prompts[i]))[:length] for i in picked]
    known = np.array([len(s) for s in starts])
    ids = np.zeros((batch, length), np.int64)
    for row, s in zip(ids, starts):
        row[:len(s)] = s
    ffn, cache = dense.dense_ffn(model), dense.Cache(model, batch, length)
    # Prompts differ in length: where a row's prompt goes on, its own token stands.
    hidden = dense.forward(model, ids[:, :known.min()], ffn, cache)
    for at in range(known.min(), length):
        p = dense.softmax(dense.logits(model, hidden[:, -1]) / np.float32(TEMPERATURE))
        total = np.cumsum(p, axis=1, out=p)
        drawn = np.argmax(total > rng.random((batch, 1)) * total[:, -1:], axis=1)
        ids[:, at] = np.where(at < known, ids[:, at], drawn)
        if at + 1 < length:
            hidden = dense.forward(model, ids[:, at:at + 1], ffn, cache)
        progress.step("sampling text", at + 1, length)
    return ids
