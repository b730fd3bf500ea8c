"""Token windows to calibrate on and to evaluate on.

text/calibration.txt and text/heldout.txt are original prose, dialogue, code,
science, sums and chat turns, written for this purpose; the second was looked at
while the method was chosen. text/unseen.txt was written afterwards and in other
styles, and only measures: choose nothing by it. (Text sampled from the dense
model was tried as well. Token for token it taught the fit about a fifth as much
as written text.)

Documents are separated by a line "%%". One whose first line starts with "? "
is a chat turn: that line is the user's, the rest the assistant's.
"""
from pathlib import Path

import numpy as np

TEXT = Path(__file__).parent / "text"
WINDOW = 256                  # tokens that attend to each other


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
