"""Byte-level BPE: encode and decode text here, and describe it for Cadre.

Encoding is needed for calibration and held-out text only, which are plain; the
patterns below follow the published pre-tokenizer on text whose letters and
digits Python's `re` classes the same way (all of ASCII, and ordinary prose).
tokenizer.json is the Hugging Face format and is what serving reads.
"""
import re

# GPT-2's word pattern with re's classes: letters, digits, other, white space.
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:_|[^\w\s])+|\s+(?!\S)|\s+")
CONTROL, USER_DEFINED = 3, 4          # token types in GGUF metadata

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# What a GGUF `tokenizer.ggml.pre` name stands for: (pre_tokenizer, split digits?).
PRE_TOKENIZERS = {
    "smollm": ({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}, True),
    "gpt-2": (BYTE_LEVEL, False),
}


def byte_alphabet():
    """The printable character that stands for each byte in a vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, spare = {b: chr(b) for b in plain}, 0x100
    for b in range(256):
        if b not in table:
            table[b] = chr(spare)
            spare += 1
    return table


class Tokenizer:
    def __init__(self, vocab):
        if vocab["pre"] not in PRE_TOKENIZERS:
            raise ValueError(f"pre-tokenizer '{vocab['pre']}' is not known to this tool")
        self.vocab = vocab
        self.pre, self.split_digits = PRE_TOKENIZERS[vocab["pre"]]
        self.ids = {t: i for i, t in enumerate(vocab["tokens"])}
        self.ranks = {tuple(m.split(" ", 1)): r for r, m in enumerate(vocab["merges"])}
        self.special = [t for t, kind in zip(vocab["tokens"], vocab["types"])
                        if kind in (CONTROL, USER_DEFINED)]
        self.special_re = re.compile("(" + "|".join(map(re.escape, self.special)) + ")")
        self.alphabet = byte_alphabet()
        self.bytes_of = {c: b for b, c in self.alphabet.items()}
        self.known = {}               # word -> ids; words repeat a lot

    def encode(self, text):
        out = []
        for piece in self.special_re.split(text) if self.special else [text]:
            if piece in self.special:
                out.append(self.ids[piece])
            else:
                for part in re.split(r"(\d)", piece) if self.split_digits else [piece]:
                    for word in WORD.findall(part):
                        out.extend(self._word(word))
        return out

    def _word(self, word):
        if word not in self.known:
            parts = [self.alphabet[b] for b in word.encode()]
            while len(parts) > 1:
                rank, at = min((self.ranks.get(pair, 1 << 30), i)
                               for i, pair in enumerate(zip(parts, parts[1:])))
                if rank == 1 << 30:
                    break
                parts[at:at + 2] = [parts[at] + parts[at + 1]]
            # Like the reference, drop bytes that the vocabulary lacks.
            self.known[word] = [self.ids[p] for p in parts if p in self.ids]
        return self.known[word]

    def decode(self, ids):
        text, special = bytearray(), set(self.special)
        for i in ids:
            token = self.vocab["tokens"][i]
            text += token.encode() if token in special else bytes(self.bytes_of[c] for c in token)
        return text.decode(errors="replace")

    def chat(self, prompt):
        """One user turn in ChatML with the model's own default system text."""
        head = re.search(r"<\|im_start\|>system.*?<\|im_end\|>", self.vocab["chat_template"], re.S)
        system = head.group(0).replace("\\n", "\n") + "\n" if head else ""
        return f"{system}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def tokenizer_json(vocab):
    """The value of tokenizer.json."""
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": kind == CONTROL}
             for i, (t, kind) in enumerate(zip(vocab["tokens"], vocab["types"]))
             if kind in (CONTROL, USER_DEFINED)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": PRE_TOKENIZERS[vocab["pre"]][0], "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(vocab["tokens"])},
                  "merges": [m.split(" ", 1) for m in vocab["merges"]]}}


def tokenizer_config(vocab, context):
    """The value of tokenizer_config.json."""
    def name(role):
        i = vocab[role]
        return vocab["tokens"][i] if 0 <= i < len(vocab["tokens"]) else None
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context,
        "add_prefix_space": False, "add_bos_token": bool(vocab["add_bos"]),
        "clean_up_tokenization_spaces": False,
        "bos_token": name("bos"), "eos_token": name("eos"), "pad_token": name("pad"),
        "unk_token": name("unk"), "chat_template": vocab["chat_template"]}
